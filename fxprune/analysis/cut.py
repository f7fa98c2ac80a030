"""What remains of a model when some channels go: sizes of axes, slices of tensors, and costs in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fxprune.labels.store import Axis

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["Cut"]


@dataclass(eq=False)
class Cut:
    """A choice of channels that go, and all that follows from it; made by `Analysis.cut`.

    Attributes:
        analysis: labels and groups of the original, or of what is left of it without some branches.
        gone: ``{group id: channel numbers}``.
        mask: bool array ``[classes]``: what goes with them, composites included.
        exact_norms: nodes of norms which a rewrite has made to count what goes as zeros -> the layers.
    """

    analysis: Analysis
    gone: dict[str, np.ndarray]
    mask: np.ndarray
    exact_norms: dict[str, str] = field(default_factory=dict)
    _kept: dict[int, tuple[np.ndarray, np.ndarray | None]] = field(default_factory=dict, repr=False)

    def kept(self, axis: Axis) -> np.ndarray | None:
        """Indices that remain of an axis, or None where all do."""
        if axis.labels is None:
            return None
        found = self._kept.get(id(axis.labels))
        if found is None:
            lost = self.mask[self.analysis.solution.root[axis.labels]]
            # The labels are kept with what follows from them, so that their id stays their own.
            found = self._kept[id(axis.labels)] = (axis.labels, np.flatnonzero(~lost) if lost.any() else None)
        return found[1]

    def size(self, axis: Axis) -> int:
        """Entries that remain of an axis."""
        kept = self.kept(axis)
        return axis.size if kept is None else len(kept)

    def shape(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        """What remains of a tensor's shape."""
        return tuple(self.size(a) for a in axes)

    def below(self, axis: Axis, index: int) -> int:
        """How many entries remain before `index`."""
        kept = self.kept(axis)
        return index if kept is None else int(np.searchsorted(kept, index))

    @cached_property
    def tensors(self) -> dict[str, dict[int, np.ndarray]]:
        """``{tensor name: {axis: kept indices}}`` for every axis that loses something."""
        result: dict[str, dict[int, np.ndarray]] = {}
        if not self.gone:
            return result
        for name, classes in self.analysis.tensor_classes.items():
            for axis, ids in classes.items():
                lost = self.mask[ids]
                if lost.any():
                    result.setdefault(name, {})[axis] = np.flatnonzero(~lost)
        return result

    @cached_property
    def total_macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products in evaluation on the example inputs, batch included."""
        total, terms = self.analysis.mac_terms
        kept = ~self.mask
        for constant, axes in terms:
            for ids in axes:
                constant *= int(kept[ids].sum())
            total += constant
        return total

    @property
    def macs(self) -> int:
        """`total_macs` for one sample."""
        return round(self.total_macs / self.analysis.batch)

    @cached_property
    def total_memory(self) -> int:
        """Bytes of the values of a run at its fullest moment (`fxprune.analysis.memory`), batch included."""
        return self.analysis.values.peak(~self.mask)

    @property
    def memory(self) -> int:
        """`total_memory` for one sample."""
        return round(self.total_memory / self.analysis.batch)

    @cached_property
    def params(self) -> int:
        """Parameters that the graph uses."""
        count, tensors = 0, self.analysis.traced.tensors
        for name in self.analysis.parameter_names:
            shape = list(tensors[name].shape)
            for axis, kept in self.tensors.get(name, {}).items():
                shape[axis] = len(kept)
            count += math.prod(shape)
        return count

    def groups_at(self, axes: Sequence[Axis]) -> list[str]:
        """Free groups that lose channels along these axes."""
        solution = self.analysis.solution
        touched = {int(c) for a in axes if a.labels is not None for c in solution.root[a.labels]}
        touched = {c for c in touched if self.mask[c]}
        parts = set(touched)
        for composite, left, right in solution.composites:
            if touched & set(composite.tolist()):
                parts |= {int(c) for c in (*left, *right) if self.mask[c]}
        return [g.id for g in self.analysis.free if parts & set(g.labels.tolist())]
