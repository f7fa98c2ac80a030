"""Costs as functions of how many channels each group keeps: sums of products of widths, compiled once for a search.

A width is the length of an axis: a constant, plus a multiple of what each group on it keeps, plus multiples of products of
what two groups keep (heads x the size of each). MACs and parameters are sums of ``constant * width * width ...``: the numbers
that `Cut` gives for one choice of channels, for all choices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["Polynomials", "polynomials_of"]

_NESTING = 8  # products of products of products: real models nest two


@dataclass(frozen=True, eq=False)
class Polynomials:
    """Costs of one analysis. `kept` below is a float array ``[groups]``: channels kept of each group of ``analysis.free``.

    Attributes:
        names: of the costs: ``"macs"`` (of the whole batch) and ``"params"``.
        exact: every choice of as many channels of the groups costs the same. Where a channel of a group lies on an axis more
            often than another, the mean is taken, and what a choice costs is for `Cut` to say.
        bases: float array ``[axes]``: entries of each axis that always stay.
        axis, pattern, times: of each entry of the sparse matrix from products of what groups keep to axes.
        patterns: int array ``[patterns, depth]``: the groups of each product; padded with the number of groups, which stands
            for 1.
        constants: float array ``[terms]``.
        factors: int array ``[terms, factors]``: the axes of each term; padded with an axis of 1.
        owners: int array ``[terms]``: which cost a term belongs to.
        fixed: float array ``[costs]``: what no choice changes.
    """

    names: tuple[str, ...]
    exact: bool
    bases: np.ndarray
    axis: np.ndarray
    pattern: np.ndarray
    times: np.ndarray
    patterns: np.ndarray
    constants: np.ndarray
    factors: np.ndarray
    owners: np.ndarray
    fixed: np.ndarray

    def values(self, kept: np.ndarray) -> np.ndarray:
        """``[costs]``: exact, as whole numbers below 2^53 are in float64."""
        widths = self._widths(self._products(kept))
        parts = self.constants * widths[self.factors].prod(1)
        return self.fixed + np.bincount(self.owners, parts, len(self.fixed))

    def slopes(self, kept: np.ndarray) -> np.ndarray:
        """``[costs, groups]``: by how much each cost grows with what a group keeps (its derivative)."""
        padded = np.append(kept, 1.0)
        factors = padded[self.patterns]
        widths = self._widths(factors.prod(1))[self.factors]
        groups, costs, axes = len(kept), len(self.fixed), len(self.bases)
        by_axis = np.zeros((costs, axes))
        for column in range(self.factors.shape[1]):
            others = self.constants * np.delete(widths, column, axis=1).prod(1)
            place = self.owners * axes + self.factors[:, column]
            by_axis += np.bincount(place, others, costs * axes).reshape(costs, axes)
        found = np.zeros((costs, groups + 1))
        for cost in range(costs):
            by_pattern = np.bincount(self.pattern, self.times * by_axis[cost, self.axis], len(self.patterns))
            for column in range(self.patterns.shape[1]):
                others = by_pattern * np.delete(factors, column, axis=1).prod(1)
                found[cost] += np.bincount(self.patterns[:, column], others, groups + 1)
        return found[:, :groups]

    def _products(self, kept: np.ndarray) -> np.ndarray:
        return np.append(kept, 1.0)[self.patterns].prod(1)

    def _widths(self, products: np.ndarray) -> np.ndarray:
        return self.bases + np.bincount(self.axis, self.times * products[self.pattern], len(self.bases))


def polynomials_of(analysis: Analysis) -> Polynomials:
    """MACs and parameters of a model, whatever its free groups keep."""
    axes = _Axes(analysis)
    constant_macs, products = analysis.mac_terms
    terms = [(float(constant), axes.numbers(arrays), 0) for constant, arrays in products]
    fixed, tensors = [float(constant_macs), 0.0], analysis.traced.tensors
    for name in analysis.parameter_names:
        movable = analysis.tensor_classes.get(name, {})
        constant = float(math.prod(size for axis, size in enumerate(tensors[name].shape) if axis not in movable))
        if movable:
            terms.append((constant, axes.numbers(movable.values()), 1))
        else:
            fixed[1] += constant
    depth = max([len(numbers) for _, numbers, _ in terms], default=1)
    return Polynomials(
        names=("macs", "params"),
        constants=np.array([constant for constant, _, _ in terms], np.float64),
        factors=np.array([n + [0] * (depth - len(n)) for _, n, _ in terms], np.int64).reshape(len(terms), depth),
        owners=np.array([owner for _, _, owner in terms], np.int64),
        fixed=np.array(fixed),
        **axes.compiled(),
    )


@dataclass(eq=False)
class _Axes:
    """Axes as they are met, each compiled once; axis 0 is of one entry."""

    analysis: Analysis
    exact: bool = True
    _numbers: dict[bytes, int] = field(default_factory=dict)
    _bases: list[float] = field(default_factory=lambda: [1.0])
    _entries: list[tuple[int, int, float]] = field(default_factory=list)
    _patterns: dict[tuple[int, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        solution, groups = self.analysis.solution, self.analysis.free
        self._owner = np.full(solution.classes + 1, -1)  # of the class -1, too: no class at all
        self._channel = np.zeros(solution.classes + 1, np.int64)
        for number, group in enumerate(groups):
            self._owner[group.labels] = number
            self._channel[group.labels] = np.arange(group.size)
        self._sizes = np.array([g.size for g in groups] or [1])
        self._factors = np.vstack([solution.factors, [-1, -1]])

    def numbers(self, arrays: Iterable[np.ndarray]) -> list[int]:
        """Which axes these arrays of classes are."""
        return [self._number(ids) for ids in arrays]

    def _number(self, ids: np.ndarray) -> int:
        key = ids.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self._bases)
            self._add(ids)
        return self._numbers[key]

    def _add(self, ids: np.ndarray) -> None:
        number, columns = len(self._bases), self._expanded(ids)
        owners = self._owner[columns]
        free = owners >= 0
        self._bases.append(float((~free.any(1)).sum()))
        # Owners in order, those that stay (-1) first: rows of equal owners are one product.
        order = np.argsort(owners, axis=1, kind="stable")
        owners, columns = np.take_along_axis(owners, order, 1), np.take_along_axis(columns, order, 1)
        rows = free.any(1)
        for row in np.unique(owners[rows], axis=0) if owners.shape[1] > 1 else np.unique(owners[rows])[:, None]:
            mine = columns[(owners == row).all(1)][:, row >= 0]
            self._product(number, tuple(int(g) for g in row if g >= 0), mine)

    def _expanded(self, ids: np.ndarray) -> np.ndarray:
        """Int array ``[entries, depth]``: the classes with any of which an entry goes; -1 for none."""
        columns = ids[:, None]
        for _ in range(_NESTING):
            parts = self._factors[columns]  # [entries, depth, 2]
            composite = parts[:, :, 0] >= 0
            if not composite.any():
                break
            left = np.where(composite, parts[:, :, 0], columns)
            columns = np.concatenate([left, np.where(composite, parts[:, :, 1], -1)], axis=1)
        return columns

    def _product(self, axis: int, groups: tuple[int, ...], classes: np.ndarray) -> None:
        """Entries of an axis that go with any of one channel each of these groups: so many for each of all combinations."""
        place = np.ravel_multi_index(tuple(self._channel[classes].T), tuple(self._sizes[list(groups)]))
        counts = np.bincount(place, minlength=int(self._sizes[list(groups)].prod()))
        self.exact &= bool((counts == counts[0]).all()) and len(set(groups)) == len(groups)
        pattern = self._patterns.setdefault(groups, len(self._patterns))
        self._entries.append((axis, pattern, float(counts.mean())))

    def compiled(self) -> dict[str, Any]:
        """The fields of `Polynomials` that describe axes."""
        depth, none = max(map(len, self._patterns), default=1), len(self.analysis.free)
        padded: list[Sequence[int]] = [[*groups, *[none] * (depth - len(groups))] for groups in self._patterns]
        axis, pattern, times = (np.array(column) for column in zip(*self._entries, strict=True)) if self._entries else 3 * [[]]
        return {
            "exact": self.exact,
            "bases": np.array(self._bases),
            "axis": np.array(axis, np.int64),
            "pattern": np.array(pattern, np.int64),
            "times": np.array(times, np.float64),
            "patterns": np.array(padded, np.int64).reshape(len(padded), depth),
        }
