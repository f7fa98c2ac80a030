"""One ATen operator on meta tensors, and what its rule says of their axes.

Tensors are written ``"n a4 6"``: an axis of the batch, one of four channels called a0 to a3, one of six entries that cannot
go. Axes are read back in the same names: ``"a0 a1 -"`` is the first two channels and an entry that stays; ``?`` is a channel
of none of the inputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxprune import nested
from fxprune.labels.solver import Solution, solve
from fxprune.labels.store import Axis
from fxprune.tracing.labelling.label_mode import LabelMode

__all__ = ["Ran", "ran"]

BATCH = 2


@dataclass
class Ran:
    """An operator that has run: its inputs, its outputs, and the names of the channels."""

    mode: LabelMode
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    names: dict[int, str]
    solution: Solution

    def causes(self) -> set[str]:
        """Why entries stay, those of no cause (the batch, sizes of one) left out."""
        return {self.mode.store.causes[cause].text for _, cause in self.mode.store.fixed}

    def axis(self, place: str) -> str:
        """The entries of ``"out 1"``, ``"out1 0"`` (the second output) or ``"in 0"``, by name."""
        what, _, number = place.partition(" ")
        tensors = self.outputs if what.startswith("out") else self.inputs
        axis = self.mode.axes(tensors[int(what.lstrip("outin") or 0)])[int(number)]
        if axis.labels is None:
            return " ".join("-" * axis.size)
        ids = self.solution.root[axis.labels].tolist()
        return " ".join("-" if self.solution.fixed[c] else self.names.get(c, "?") for c in ids)


def ran(operator: Callable[..., Any], *shapes: str, literals: frozenset[int] | None = None) -> Ran:
    """Run an operator on labelled tensors; `literals`: the sizes that its node names, if it is not part of a module."""
    mode = LabelMode(node="call", arguments=None if literals is None else (tuple(sorted(literals)), {}))
    sources: dict[str, Axis] = {}
    inputs = []
    for shape in shapes:
        axes = []
        for word in shape.split():
            name, size = re.fullmatch(r"([a-z]*)(\d*)", word).groups()
            if word == "n":
                axes.append(Axis(BATCH, None, True))
            else:
                axes.append(sources.setdefault(name, mode.store.fresh(int(size))) if name else Axis(int(size)))
        tensor = torch.empty([a.size for a in axes], device="meta")
        mode.label(tensor, axes)
        inputs.append(tensor)
    with torch.inference_mode(), mode:
        outputs = nested.tensors(operator(*inputs))
    solution = solve(mode.store)
    names: dict[int, str] = {}
    for name, axis in sources.items():
        if axis.labels is not None:
            for place, c in enumerate(solution.root[axis.labels].tolist()):
                names.setdefault(c, f"{name}{place}")
    return Ran(mode, inputs, outputs, names, solution)
