"""How many channels each group keeps, as a problem of numbers: what may be kept, what it is worth, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fxprune.analysis.costs import Costs

__all__ = ["Problem"]


@dataclass(frozen=True, eq=False)
class Problem:
    """Keep the most saliency within the budgets.

    A *state* is an int array ``[groups]``: of each group the number of the level that it keeps, from 0, the least. A *step*
    leads from a level of one group to the next: levels and steps of all groups lie in one array each, and the step at a level
    leads to it (those at the least levels are none).

    Attributes:
        costs: as functions of what groups keep, in rows.
        targets: float array ``[rows]``: what each may be at most; infinite where no budget is given.
        levels: of each group, what it may keep, from the least.
        worths: of each group, the saliency of its best channels, as many as each level keeps: concave, as the best come first.
        weights: float array ``[groups]``: what a score counts for in the saliency.
    """

    costs: Costs
    targets: np.ndarray
    levels: Sequence[np.ndarray]
    worths: Sequence[np.ndarray]
    weights: np.ndarray

    @classmethod
    def of(
        cls,
        budgets: tuple[Costs, np.ndarray],
        levels: Sequence[np.ndarray],
        scores: Sequence[np.ndarray | None],
        weights: np.ndarray,
    ) -> Problem:
        """Of the scores of each group; groups without scores stay whole.

        The saliency of a channel is its score, weighed. Scores below zero are no saliency that could be summed: then all are
        shifted alike, so that the lowest is zero, which leaves their order.

        Args:
            budgets: costs, and their targets.
        """
        levels = [each if s is not None else each[-1:] for each, s in zip(levels, scores, strict=True)]
        shift = min([0.0, *(float(s.min()) for s in scores if s is not None)])
        worths = []
        for mine, given, weight in zip(levels, scores, weights.tolist(), strict=True):
            best = np.zeros(int(mine[-1])) if given is None else max(weight, 1e-300) * (np.sort(given)[::-1] - shift)
            worths.append(np.concatenate([[0.0], np.cumsum(best)])[mine])
        return cls(*budgets, levels, worths, weights)

    # -- levels and steps of all groups, end to end ------------------------------------------------------------------

    @cached_property
    def start(self) -> np.ndarray:
        """Int array ``[groups]``: where the levels of each group begin."""
        counts = [len(each) for each in self.levels]
        return np.cumsum([0, *counts[:-1]]) if counts else np.zeros(0, np.int64)

    @cached_property
    def tops(self) -> np.ndarray:
        """The state that keeps everything."""
        return np.array([len(each) - 1 for each in self.levels], np.int64)

    @cached_property
    def owner(self) -> np.ndarray:
        """The group of each level."""
        return np.repeat(np.arange(len(self.levels)), self.tops + 1)

    @cached_property
    def number(self) -> np.ndarray:
        """The number of each level within its group."""
        return np.arange(len(self.owner)) - self.start[self.owner]

    @cached_property
    def kept(self) -> np.ndarray:
        """What each level keeps."""
        return np.concatenate([*self.levels, []])

    @cached_property
    def worth(self) -> np.ndarray:
        """The saliency of each level."""
        return np.concatenate([*self.worths, []])

    @cached_property
    def wide(self) -> np.ndarray:
        """Channels that each step adds."""
        return np.where(self.number > 0, np.diff(self.kept, prepend=0.0), 1.0)

    @cached_property
    def gain(self) -> np.ndarray:
        """Saliency that each step adds."""
        return np.where(self.number > 0, np.diff(self.worth, prepend=0.0), 0.0)

    @cached_property
    def convex(self) -> np.ndarray:
        """Numbers of the rows with a budget that are convex."""
        return np.flatnonzero(np.isfinite(self.targets) & self.costs.convex)

    # -- of a state --------------------------------------------------------------------------------------------------

    def keeps(self, state: np.ndarray) -> np.ndarray:
        """Channels that each group keeps."""
        return self.kept[self.start + state]

    def values(self, state: np.ndarray) -> np.ndarray:
        """Float array ``[rows]``."""
        return self.costs.values(self.keeps(state))

    def slopes(self, state: np.ndarray) -> np.ndarray:
        """Float array ``[rows, groups]``: about what one more channel of a group adds to each row."""
        return self.costs.slopes(self.keeps(state))

    def saliency(self, state: np.ndarray) -> float:
        return float(self.worth[self.start + state].sum())

    def scores(self, state: np.ndarray) -> float:
        """The scores of the channels that are kept, not weighed."""
        return float((self.worth[self.start + state] / np.maximum(self.weights, 1e-300)).sum())

    @cached_property
    def whole(self) -> float:
        """The saliency of all channels."""
        return self.saliency(self.tops)

    def fits(self, state: np.ndarray) -> bool:
        """Whether a state is within all budgets."""
        return bool((self.values(state) <= self.targets).all())

    def nearest(self, values: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
        """Of these rows up to so many, those whose budgets are used most."""
        if len(rows) <= most:
            return rows
        used = values[rows] / np.maximum(self.targets[rows], 1e-9)
        return rows[np.argsort(-used, kind="stable")[:most]]

    def state_of(self, kept: Sequence[int]) -> np.ndarray:
        """The highest state that keeps no more of any group than this, where the group has such a level."""
        pairs = zip(self.levels, kept, strict=True)
        return np.array([max(0, int(np.searchsorted(each, k, side="right")) - 1) for each, k in pairs], np.int64)
