"""A table of latencies: what was measured, on which device, and what follows from it. JSON, one file a key."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.analysis.analysis import Analysis
from fxprune.codegen.files import write_text
from fxprune.codegen.replacing import checked_path
from fxprune.errors import InputError, PlanMismatch, said, shown
from fxprune.inputs.examples import describe
from fxprune.planning.plan import fingerprint
from fxprune.planning.reading import count, counts, document_of_text, entries, number, text
from fxprune.profiling.engines.base import Engine
from fxprune.profiling.fitting import Fitted, fit
from fxprune.profiling.measuring import Sample
from fxprune.profiling.predicted import Predicted
from fxprune.profiling.segments import Segments

__all__ = ["LatencyTable", "device_name", "folder_of", "key_of", "read_table", "table_of"]

_VERSION = 1
_FORM = "fxprune-latency"
SAMPLES = 24  # if nothing is said
FEWEST = 6  # samples from which anything can be learnt


@dataclass
class LatencyTable:
    """What `fxprune.profile` gives: print it for a summary.

    Attributes:
        key: what the times hold for: device, engine, threads, versions, model, inputs and options.
        samples: what was measured of each design, the dense model first.
        path: the file that holds it; None where none does.
        wanted: how many samples there are to be.
    """

    key: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    path: Path | None = None
    wanted: int = SAMPLES
    _segments: Segments | None = field(default=None, repr=False, compare=False)

    @property
    def dense(self) -> float:
        """Seconds of one forward of the dense model: the median over all that was measured in turns with slim ones."""
        return float(np.median([sample.dense for sample in self.samples]))

    def fitted(self, segments: Segments) -> Fitted:
        """What is learnt from the samples.

        Raises:
            InputError: they are too few.
        """
        if len(self.samples) < FEWEST:
            raise InputError(
                f"the table holds {len(self.samples)} samples, of {FEWEST} that are needed: go on with fxprune.profile"
            )
        return fit(segments, self.samples, bool(self.key["own_parts"]))

    @cached_property
    def _fitted(self) -> Fitted | None:
        return None if self._segments is None or len(self.samples) < FEWEST else self.fitted(self._segments)

    def predicted(self, analysis: Analysis, segments: Segments) -> Predicted:
        """The latency of every choice of channels.

        Raises:
            PlanMismatch: the table is for other groups of channels.
        """
        if self.key["groups"] != _groups(analysis):
            raise PlanMismatch("the latency table is for another model, other example inputs, or another attention or ignore")
        sizes = tuple((group.id, group.size) for group in analysis.free)
        return Predicted(segments, self.fitted(segments), self.key, sizes=sizes)

    def to_dict(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            "format": _FORM,
            "version": _VERSION,
            "key": self.key,
            "wanted": self.wanted,
            "samples": [sample.to_dict() for sample in self.samples],
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON; `read_table` reads it back."""
        lines = ",\n ".join(json.dumps(sample.to_dict()) for sample in self.samples)
        head = json.dumps({"format": _FORM, "version": _VERSION, "key": self.key, "wanted": self.wanted}, indent=1)[:-2]
        return write_text(checked_path(path), f'{head},\n "samples": [\n {lines}\n ]\n}}\n')

    def __str__(self) -> str:
        key, slim = self.key, [s.whole / s.dense for s in self.samples[1:]]
        lines = [
            f"{key['engine']} on {key['device']}, {key['threads']} thread{'s' if key['threads'] > 1 else ''}: the dense model "
            f"takes {self.dense * 1e3:.2f} ms; {len(self.samples)} designs measured"
            + (f", down to {min(slim):.0%} of it" if slim else "")
        ]
        if self._fitted is not None:
            errors = np.abs(self._fitted.errors)
            lines.append(
                f"predicted within {np.median(errors):.1%} in the middle, {np.quantile(errors, 0.9):.1%} for nine of ten, "
                "of the designs that it was learnt from (each left out of the last step)"
            )
        return "\n".join(lines)


def key_of(analysis: Analysis, model: nn.Module, engine: Engine, seed: int) -> dict[str, Any]:
    """What times depend on."""
    args, named = analysis.traced.example
    return {
        "device": device_name(engine.device),
        "engine": engine.name,
        "threads": engine.threads,
        "versions": engine.versions(),
        "model": type(model).__name__,
        "fingerprint": fingerprint(model),
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in model.parameters()}),
        "inputs": describe(args, named),
        "groups": _groups(analysis),
        "own_parts": engine.own_parts,
        "seed": seed,
    }


def _groups(analysis: Analysis) -> str:
    """A digest of the groups that may lose channels, and of their order."""
    lines = "\n".join(f"{group.id} {group.size}" for group in analysis.free)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def device_name(device: torch.device) -> str:
    """What a table calls a device: kind and model."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {names[0] if names else platform.processor() or platform.machine()}"


def folder_of(cache: Any) -> Path | None:
    """Where tables are kept.

    Args:
        cache: a folder; None for ``$FXPRUNE_CACHE``, or ``fxprune/latency`` in the user's cache; False for nowhere.

    Raises:
        InputError: it is none of these.
    """
    if cache is False:
        return None
    if cache is not None:
        return checked_path(cache)
    if given := os.environ.get("FXPRUNE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxprune" / "latency"


def path_of(folder: Path | None, key: dict[str, Any]) -> Path | None:
    """The file of a key."""
    if folder is None:
        return None
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{key['model']}-{key['engine']}-{digest}.json"


def read_table(path: str | os.PathLike[str]) -> LatencyTable:
    """Read a table back.

    Raises:
        InputError: it cannot be read, is damaged, or is of a version that this fxprune cannot read.
    """
    where = checked_path(path)
    try:
        document = document_of_text(where.read_text(encoding="utf-8"), _FORM, _VERSION, InputError)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the latency table {str(where)!r}: {said(error)}") from error
    try:
        return table_of(document, where)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the latency table {str(where)!r} is damaged: {type(error).__name__}: {error!s:.200}") from error


def table_of(document: Mapping[str, Any], path: Path | None = None) -> LatencyTable:
    """The table of what `LatencyTable.to_dict` gave.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    key = dict(document["key"])
    for name in ("device", "engine", "model", "fingerprint", "groups"):
        text(key[name])
    count(key["threads"])
    return LatencyTable(key, entries(document["samples"], _sample), path, count(document["wanted"]))


def _sample(entry: Any) -> Sample:
    parts = None if entry["parts"] is None else entries(entry["parts"], number)
    whole, dense = number(entry["whole"]), number(entry["dense"])
    if not (whole > 0 and dense > 0):
        raise ValueError(f"{shown(min(whole, dense))} is no time")
    return Sample(count(entry["number"]), counts(entry["kept"]), whole, dense, parts)
