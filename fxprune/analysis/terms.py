"""Products of widths as functions of how many channels each group keeps, compiled once for a search.

A width is the length of an axis: a constant, plus a multiple of what each group on it keeps, plus multiples of products of
what two groups keep (heads x the size of each). A term is ``constant * width * width ...``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["AxisTable", "Terms"]

_NESTING = 8  # products of products of products: real models nest two


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms of one analysis. `kept` below is a float array ``[groups]``: channels kept of each group of ``analysis.free``.

    Attributes:
        exact: every choice of as many channels of the groups gives the same. Where a channel of a group lies on an axis more
            often than another, the mean is taken, and what a choice gives is for `Cut` to say.
        bases: float array ``[axes]``: entries of each axis that always stay.
        axis, pattern, times: of each entry of the sparse matrix from products of what groups keep to axes.
        patterns: int array ``[patterns, depth]``: the groups of each product; padded with the number of groups, which stands
            for 1.
        constants: float array ``[terms]``.
        factors: int array ``[terms, factors]``: the axes of each term; padded with an axis of 1.
        groups: how many there are.
    """

    exact: bool
    bases: np.ndarray
    axis: np.ndarray
    pattern: np.ndarray
    times: np.ndarray
    patterns: np.ndarray
    constants: np.ndarray
    factors: np.ndarray
    groups: int

    def parts(self, kept: np.ndarray) -> np.ndarray:
        """``[terms]``: exact, as whole numbers below 2^53 are in float64."""
        return np.asarray(self.constants * self._widths(np.append(kept, 1.0)[self.patterns].prod(1))[self.factors].prod(1))

    def slopes_of(self, owners: np.ndarray, count: int, kept: np.ndarray) -> np.ndarray:
        """``[owners, groups]``: the derivatives of sums of terms.

        Args:
            owners: int array ``[terms]``: to which sum each term belongs.
            count: of sums.
        """
        links = self._links
        factors = np.append(kept, 1.0)[self.patterns]
        widths = self._widths(factors.prod(1))[self.factors]
        by_axis = self.constants[:, None] * _others(widths)
        by_group = _others(factors)
        values = by_axis[links.term, links.column] * links.times * by_group[links.pattern, links.depth]
        found = np.bincount(owners[links.term] * len(kept) + links.group, values, count * len(kept))
        return np.asarray(found.reshape(count, len(kept)))

    @cached_property
    def _links(self) -> _Links:
        """Every way in which a term depends on a group."""
        order = np.argsort(self.axis, kind="stable")
        entries = np.bincount(self.axis, minlength=len(self.bases))  # of each axis
        start = np.cumsum(entries) - entries
        numbers = np.arange(self.factors.size)
        repeats = entries[self.factors.ravel()]
        place = np.repeat(numbers, repeats)  # in `factors`
        within = np.arange(len(place)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        entry = order[start[self.factors.ravel()[place]] + within]
        term, column = np.divmod(place, max(self.factors.shape[1], 1))
        depth = self.patterns.shape[1]
        every = np.repeat(np.arange(len(entry)), depth)
        pattern, depths = self.pattern[entry][every], np.tile(np.arange(depth), len(entry))
        group = self.patterns[pattern, depths]
        found = _Links(term[every], column[every], self.times[entry][every], pattern, depths, group)
        return found.at(np.flatnonzero(group < self.groups))

    def _widths(self, products: np.ndarray) -> np.ndarray:
        return self.bases + np.bincount(self.axis, self.times * products[self.pattern], len(self.bases))


@dataclass(frozen=True, eq=False)
class _Links:
    """Arrays of one length: terms that depend on groups.

    Attributes:
        term, column: the axis ``factors[term, column]``
        times, pattern, depth: has so many entries of a product whose factor `depth` is what the group keeps.
        group: its number.
    """

    term: np.ndarray
    column: np.ndarray
    times: np.ndarray
    pattern: np.ndarray
    depth: np.ndarray
    group: np.ndarray

    def at(self, rows: np.ndarray) -> _Links:
        return _Links(*(getattr(self, each.name)[rows] for each in fields(self)))


def _others(factors: np.ndarray) -> np.ndarray:
    """Of each factor ``[rows, columns]`` the product of the others in its row."""
    columns = range(factors.shape[1])
    return np.stack([np.delete(factors, column, axis=1).prod(1) for column in columns], axis=1) if columns else factors


@dataclass(eq=False)
class AxisTable:
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

    def terms(self, found: Sequence[tuple[float, list[int]]]) -> dict[str, Any]:
        """The fields of `Terms` with these constants and numbers of axes."""
        depth = max([len(numbers) for _, numbers in found], default=1) or 1
        return {
            "constants": np.array([constant for constant, _ in found], np.float64),
            "factors": np.array([n + [0] * (depth - len(n)) for _, n in found], np.int64).reshape(len(found), depth),
            "groups": len(self.analysis.free),
            **self._compiled(),
        }

    def _compiled(self) -> dict[str, Any]:
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
