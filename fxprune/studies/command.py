"""What `fxprune study` does with a built model: data, study, pictures, files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from fxprune.codegen.files import write_text
from fxprune.criteria import resolve
from fxprune.inputs.batches import random_batches
from fxprune.inputs.data import DataSpec
from fxprune.studies.aura_map import aura_map
from fxprune.studies.results import Study
from fxprune.studies.running import study

__all__ = ["Wanted", "run"]

Result = TypeVar("Result")
Step = Callable[[str, Callable[[], Result]], Result]  # runs a named step, and gives what it gives


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the command was asked for.

    Attributes:
        criteria: their names.
        data: what criteria observe, if anything.
        out: the folder for files, if there are to be any.
        plots: draw pictures into it.
    """

    criteria: Sequence[str]
    data: DataSpec | None = None
    out: Path | None = None
    plots: bool = True


def run(
    model: nn.Module, inputs: tuple[Tensor, ...] | None, wanted: Wanted, step: Step[Any], **options: Any
) -> tuple[Study, list[Path]]:
    """Study `model`; write ``study.json``, ``study.txt`` and pictures. Gives the study and the files.

    Criteria that observe the model at work do so on the data, or else on random inputs, and the study's notes say so. With
    data there is also a picture of the network's spatial aura entropies, and their numbers in ``aura.json``.

    Args:
        inputs: example inputs, or None to infer them.
        step: runs a named part of the work.
        options: of `fxprune.study`; a seed is among them.

    Raises:
        PruneError: pictures are wanted and matplotlib is not installed, or a file cannot be written.
    """
    if wanted.out is not None and wanted.plots:
        from fxprune.studies.plots import require

        require()
    batches, notes = _batches(model, inputs, wanted, options["seed"])
    found: Study = step("studying", lambda: study(model, wanted.criteria, inputs, data=batches, **options))
    found = dataclasses.replace(found, notes=(*found.notes, *notes))
    out = wanted.out
    if out is None:
        return found, []
    written = [write_text(out / "study.json", found.to_json()), write_text(out / "study.txt", f"{found}\n")]
    aura = None
    if wanted.data is not None and batches is not None:
        kept = {name: options[name] for name in ("ignore", "attention", "batches") if name in options}
        aura = step("measuring aura entropies", lambda: aura_map(model, batches, inputs, **kept))
        written.append(write_text(out / "aura.json", json.dumps(aura.to_dict(), sort_keys=True) + "\n"))
    if wanted.plots:
        from fxprune.studies import plots

        drawn = plots.figures(found) | ({} if aura is None else {"aura": plots.aura(aura)})
        written += step("drawing", lambda: plots.save(drawn, out))
    return found, written


def _batches(
    model: nn.Module, inputs: tuple[Tensor, ...] | None, wanted: Wanted, seed: int
) -> tuple[Iterable[Any] | None, tuple[str, ...]]:
    """What criteria observe, if any wants to; and what to know of it."""
    if wanted.data is not None:
        loader = wanted.data.loader(model)
        return loader, loader.notes
    watching = [name for name in wanted.criteria if getattr(resolve(name), "needs_data", False)]
    if not watching:
        return None, ()
    note = (
        f"the model was observed on random inputs with random labels: scores of {', '.join(watching)} say nothing about "
        "real data; give --data"
    )
    return random_batches(model, inputs, seed), (note,)
