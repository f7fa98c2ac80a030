"""`fxprune.profile`: measure a model once, so that the latency of every slim one is known beforehand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from fxprune.errors import InputError, shown
from fxprune.inputs.acceptance import check_values
from fxprune.options import AttentionPolicy, check_seed
from fxprune.planning.report import check_graph
from fxprune.profiling.designs import design
from fxprune.profiling.engines.base import Engine
from fxprune.profiling.engines.registry import engine_of
from fxprune.profiling.measuring import Bench, seconds_needed
from fxprune.profiling.segments import segments_of
from fxprune.profiling.table import FEWEST, SAMPLES, LatencyTable, folder_of, key_of, path_of, read_table
from fxprune.submodules.target import Target

__all__ = ["complete", "device_of", "measured", "profile"]


Told = Callable[[str, int, int], None]  # a sentence, designs done, designs in all


def profile(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    engine: str = "eager",
    device: str | None = None,
    threads: int | None = None,
    samples: int | None = None,
    attention: AttentionPolicy = "head_dim",
    ignore: Iterable[str] = (),
    submodules: str | Iterable[str] = (),
    seed: int = 0,
    cache: str | os.PathLike[str] | bool | None = None,
    told: Told | None = None,
) -> LatencyTable:
    """Measure how long slim models of `model` take, segment by segment, and learn it for all of them.

    Random slim models are made, whose widths cover what channels can be, and timed as a whole, in turns with the dense model,
    and segment by segment as they run: so caches, layouts and fused operations are those of real runs. What was measured is
    kept in a file; the next call with the same model, inputs, device, engine, threads and versions takes no time, and one that
    was killed goes on where it was.

    >>> table = profile(net, x, samples=6, threads=1, cache=False)
    >>> len(table.samples), table.dense > 0
    (6, True)

    Args:
        model: it is not modified.
        example_inputs: of the batch whose latency counts; inferred for timm and torchvision.
        engine: ``"eager"``, ``"compile"`` (torch.compile) or ``"onnxruntime"``.
        device: ``"cpu"`` or ``"cuda"``; that of the model, if not given.
        threads: of the processor; as many as PyTorch uses now, if not given.
        samples: slim models that are measured; if not given, as many as the table was asked to have before, or 24.
        attention, ignore, submodules: as for `fxprune.prune`.
        seed: of widths and inputs.
        cache: folder of the tables; None: ``$FXPRUNE_CACHE``, else the user's cache; False: nothing is read or written.
        told: called with a sentence (first how long it will take), how many designs are done, and how many there are.

    Raises:
        InputError: there is no such engine or device, something is not installed, or an argument is out of range.
    """
    check_graph(model, "a latency table", "time it as a whole, as fxprune.validate does")
    found = engine_of(engine, device_of(model) if device is None else device, threads)
    target = Target.of(model, submodules, example_inputs)
    return measured(target, found, samples, (attention, ignore, seed), (cache, told))


def measured(
    target: Target,
    engine: Engine,
    samples: int | None,
    options: tuple[AttentionPolicy, Iterable[str], int],
    around: tuple[Any, Told | None] = (None, None),
) -> LatencyTable:
    """The table of a target, from its file as far as that goes.

    Args:
        options: attention, ignore and seed.
        around: cache and told of `profile`.
    """
    given = SAMPLES if samples is None else samples
    if isinstance(given, bool) or not isinstance(given, int) or not FEWEST <= given <= 10_000:
        raise InputError(f"samples must be a whole number of at least {FEWEST}, not {shown(samples)}")
    (attention, ignore, seed), (cache, told) = options, around
    folder = folder_of(cache)
    check_values(target.model, "measure filled models")
    analysis = target.analyze(attention, ignore)
    if not analysis.free:
        raise InputError(analysis.nothing())
    key = key_of(analysis, target.model, engine, check_seed(seed))
    path = path_of(folder, key)
    table = LatencyTable(key, path=path, wanted=given)
    if path is not None and path.is_file():
        stored = read_table(path)
        if stored.key == key:
            table.samples, table.wanted = stored.samples, max(stored.wanted, given) if samples else stored.wanted
    segments = table._segments = segments_of(analysis)
    if len(table.samples) < table.wanted:
        complete(table, Bench(analysis, target.model, segments, engine, seed), told)
    return table


def complete(table: LatencyTable, bench: Bench, told: Told | None = None) -> None:
    """Measure what is missing; after each design the table's file is whole."""
    samples = table.wanted
    missing = samples - len(table.samples)
    if told is not None:
        seconds = seconds_needed(bench, missing)
        told(f"measuring {missing} slim models with {bench.engine.name}: about {_spoken(seconds)}", len(table.samples), samples)
    while len(table.samples) < samples:
        number = len(table.samples)
        table.samples.append(bench.sample(number, design(bench.analysis, number, bench.seed)))
        if table.path is not None:
            table.save(table.path)
        if told is not None:
            told(f"design {number + 1}", number + 1, samples)


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def device_of(model: Any) -> str | None:
    """Where the model is, if it is anywhere that can be timed."""
    tensors = [*model.parameters()] if isinstance(model, nn.Module) else []
    return str(tensors[0].device) if tensors and tensors[0].device.type == "cuda" else None
