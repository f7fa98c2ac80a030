"""MACs and parameters as functions of how many channels each group keeps: the numbers that `Cut` gives for one choice of
channels, for all choices."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fxprune.analysis.terms import AxisTable, Terms

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["Polynomials", "polynomials_of"]


@dataclass(frozen=True, eq=False)
class Polynomials(Terms):
    """Costs that are sums of terms.

    Attributes:
        names: of the costs: ``"macs"`` (of the whole batch) and ``"params"``.
        owners: int array ``[terms]``: which cost a term belongs to.
        fixed: float array ``[costs]``: what no choice changes.
    """

    names: tuple[str, ...]
    owners: np.ndarray
    fixed: np.ndarray

    @property
    def convex(self) -> np.ndarray:
        """All are (`fxprune.analysis.costs.Costs`)."""
        return np.ones(len(self.fixed), bool)

    def values(self, kept: np.ndarray) -> np.ndarray:
        """``[costs]``."""
        return self.fixed + np.bincount(self.owners, self.parts(kept), len(self.fixed))

    def slopes(self, kept: np.ndarray) -> np.ndarray:
        """``[costs, groups]``: by how much each cost grows with what a group keeps (its derivative)."""
        return self.slopes_of(self.owners, len(self.fixed), kept)

    def only(self, names: Collection[str]) -> Polynomials:
        """Some of the costs."""
        chosen = np.array([number for number, name in enumerate(self.names) if name in names], np.int64)
        mine = np.isin(self.owners, chosen)
        return replace(
            self,
            names=tuple(self.names[number] for number in chosen),
            constants=self.constants[mine],
            factors=self.factors[mine],
            owners=np.searchsorted(chosen, self.owners[mine]),
            fixed=self.fixed[chosen],
        )


def polynomials_of(analysis: Analysis) -> Polynomials:
    """MACs and parameters of a model, whatever its free groups keep."""
    axes = AxisTable(analysis)
    constant_macs, products = analysis.mac_terms
    terms = [(float(constant), axes.numbers(arrays)) for constant, arrays in products]
    owners = [0] * len(terms)
    fixed, tensors = [float(constant_macs), 0.0], analysis.traced.tensors
    for name in analysis.parameter_names:
        movable = analysis.tensor_classes.get(name, {})
        constant = float(math.prod(size for axis, size in enumerate(tensors[name].shape) if axis not in movable))
        if movable:
            terms.append((constant, axes.numbers(movable.values())))
            owners.append(1)
        else:
            fixed[1] += constant
    found = axes.terms(terms)
    return Polynomials(names=("macs", "params"), owners=np.array(owners, np.int64), fixed=np.array(fixed), **found)
