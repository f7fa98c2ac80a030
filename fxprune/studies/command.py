"""What `fxprune study` does with a built model: data, study, pictures, files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.cli.output import write_text
from fxprune.criteria import resolve
from fxprune.errors import InputError
from fxprune.inputs.examples import random_like, settle_inputs
from fxprune.studies.aura_map import aura_map
from fxprune.studies.results import Study
from fxprune.studies.running import study

__all__ = ["load_batches", "random_batches", "run"]

Result = TypeVar("Result")
Batch = tuple[Any, ...]

_BATCH = 64
_RANDOM_BATCHES = 8
_NAMES = (("inputs", "x", "images"), ("labels", "y", "label"))  # of the arrays in a file of data


def run(
    model: nn.Module,
    inputs: tuple[Tensor, ...] | None,
    criteria: Sequence[str],
    data: Path | None,
    out: Path | None,
    plots: bool,
    step: Callable[[str, Callable[[], Any]], Any],
    **options: Any,
) -> tuple[Study, list[Path]]:
    """Study `model`; write ``study.json``, ``study.txt`` and pictures to `out`. Gives the study and the files.

    Criteria that observe the model at work do so on `data`, or else on random inputs, and the study's notes say so. With
    data there is also a picture of the network's spatial aura entropies, and their numbers in ``aura.json``.

    Raises:
        PruneError: pictures are wanted and matplotlib is not installed, or a file cannot be written.
    """
    if out is not None and plots:
        from fxprune.studies.plots import require

        require()
    note = ""
    batches = None if data is None else load_batches(data, model)
    watching = [name for name in criteria if getattr(resolve(name), "needs_data", False)]
    if batches is None and watching:
        batches = random_batches(model, inputs, options["seed"])
        note = (
            f"the model was observed on random inputs with random labels: scores of {', '.join(watching)} say nothing about "
            "real data; give --data FILE.npz"
        )
    found: Study = step("studying", lambda: study(model, criteria, inputs, data=batches, **options))
    if note:
        found = dataclasses.replace(found, notes=(*found.notes, note))
    if out is None:
        return found, []
    written = [write_text(out / "study.json", found.to_json()), write_text(out / "study.txt", f"{found}\n")]
    aura = None
    if data is not None and batches is not None:
        kept = {name: options[name] for name in ("ignore", "attention", "batches") if name in options}
        aura = step("measuring aura entropies", lambda: aura_map(model, batches, inputs, **kept))
        written.append(write_text(out / "aura.json", json.dumps(aura.to_dict(), sort_keys=True) + "\n"))
    if plots:
        from fxprune.studies import plots as drawing

        drawn = drawing.figures(found) | ({} if aura is None else {"aura": drawing.aura(aura)})
        written += step("drawing", lambda: drawing.save(drawn, out))
    return found, written


def load_batches(path: Path, model: nn.Module) -> list[Batch]:
    """Batches of 64 from an ``.npz`` file: ``inputs`` as the model takes them ``[n, ...]``, and ``labels [n]`` if there are
    any, on the CPU in the model's dtype.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [next((file[name] for name in names if name in file), None) for names in _NAMES]
            held = ", ".join(file)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is not a readable .npz file of arrays: {error}") from error
    inputs, labels = arrays
    if inputs is None or inputs.ndim < 2 or inputs.dtype.kind not in "fiu":
        raise InputError(
            f"{str(path)!r} must hold an array of numbers 'inputs' [n, ...], as the model takes them; it has {held}"
        )
    if labels is not None and (labels.shape != inputs.shape[:1] or labels.dtype.kind not in "iu"):
        raise InputError(f"{str(path)!r}: labels must be {len(inputs)} whole numbers, not {labels.dtype} {labels.shape}")
    if not len(inputs):
        raise InputError(f"{str(path)!r} holds no inputs")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    parts = [torch.from_numpy(np.ascontiguousarray(inputs)).split(_BATCH)]
    batches = [(x.to(dtype) if inputs.dtype.kind == "f" else x,) for (x,) in zip(*parts, strict=True)]
    if labels is None:
        return batches
    classes = torch.from_numpy(labels.astype(np.int64)).split(_BATCH)
    return [(*batch, y) for batch, y in zip(batches, classes, strict=True)]


def random_batches(model: nn.Module, inputs: tuple[Tensor, ...] | None, seed: int = 0) -> list[Batch]:
    """Eight batches of random values in the shape of the example inputs; random labels where the output is ``[n, classes]``."""
    args, named = settle_inputs(model, inputs)
    first = next(iter(model.parameters()), torch.empty(0))
    batches: list[Batch] = [random_like((*args, *named.values()), first.device, None, seed + i) for i in range(_RANDOM_BATCHES)]
    with torch.no_grad():
        output = model(*batches[0])
    if not isinstance(output, Tensor) or output.dim() != 2:
        return batches
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(output.shape[1], (_RANDOM_BATCHES, len(output)), generator=generator)
    return [(*batch, y) for batch, y in zip(batches, labels, strict=True)]
