"""How many channels each group keeps, as a problem of numbers: what may be kept, what it is worth, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fxprune.analysis.costs import Costs

__all__ = ["Problem"]

_LEAST = 1e-6  # share of a group's saliency, where nothing or next to nothing is kept


@dataclass(frozen=True, eq=False)
class Problem:
    """Keep the most worth within the budgets.

    A *state* is an int array ``[groups]``: of each group the number of the level that it keeps, from 0, the least. A *step*
    leads from a level of one group to the next: levels and steps of all groups lie in one array each, and the step at a level
    leads to it (those at the least levels are none).

    Attributes:
        costs: as functions of what groups keep, in rows.
        targets: float array ``[rows]``: what each may be at most; infinite where no budget is given.
        levels: of each group, what it may keep, from the least.
        worths: of each group, what each level is worth, from 0 for the least: concave, as the best channels come first.
        scale: of the worths, for `share`: what is lost of a mean over groups of logarithms; None if they are sums themselves.
    """

    costs: Costs
    targets: np.ndarray
    levels: Sequence[np.ndarray]
    worths: Sequence[np.ndarray]
    scale: float | None = None

    @classmethod
    def of(
        cls,
        budgets: tuple[Costs, np.ndarray],
        levels: Sequence[np.ndarray],
        scores: Sequence[np.ndarray | None],
        weights: np.ndarray,
        additive: bool = False,
    ) -> Problem:
        """Of the scores of each group; groups without scores stay whole.

        What a group keeps is worth ``w log s``, where ``s`` is the share of its saliency, the sum of its scores, that it keeps,
        and ``w`` its saliency times its weight. With weights that say what a channel of it costs in the whole model, a channel
        is at first worth its score times its cost, and the more of its group is gone, the more. The sum of scores, weighed or
        not, would be no measure: costs are products, so that half of one factor saves as much as 30 % of both and takes less
        of a sum, and a search for the largest sum empties single groups, the residual stream first. The logarithm of a product
        has no such corners.

        Scores below zero are no saliency that could be summed: then all are shifted alike, so that the lowest is zero, which
        leaves their order.

        Args:
            budgets: costs, and their targets.
            weights: float array ``[groups]``.
            additive: scores are losses that can be summed, over groups, too: then their sum is what is worth.
        """
        levels = [each if s is not None else each[-1:] for each, s in zip(levels, scores, strict=True)]
        shift = min([0.0, *(float(s.min()) for s in scores if s is not None)])
        worths, scale = [], 0.0
        for mine, given, weight in zip(levels, scores, weights.tolist(), strict=True):
            best = np.zeros(int(mine[-1])) if given is None else np.sort(given)[::-1] - shift
            sums = np.concatenate([[0.0], np.cumsum(best)])[mine]
            if not additive and sums[-1] > 0:
                whole, logs = weight * sums[-1], np.log(np.maximum(sums / sums[-1], _LEAST))
                sums = whole * (logs - logs[0])
                scale += whole
            worths.append(sums)
        return cls(*budgets, levels, worths, None if additive else scale)

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
        """What each level is worth."""
        return np.concatenate([*self.worths, []])

    @cached_property
    def wide(self) -> np.ndarray:
        """Channels that each step adds."""
        return np.where(self.number > 0, np.diff(self.kept, prepend=0.0), 1.0)

    @cached_property
    def gain(self) -> np.ndarray:
        """What each step adds to the worth."""
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

    def value(self, state: np.ndarray) -> float:
        """What a state is worth."""
        return float(self.worth[self.start + state].sum())

    @cached_property
    def whole(self) -> float:
        """What all channels are worth."""
        return self.value(self.tops)

    def share(self, value: float) -> float:
        """The share of the saliency that a state of this worth keeps: a weighed geometric mean over groups."""
        if self.scale is None:
            return value / self.whole if self.whole else 1.0
        return float(np.exp((value - self.whole) / self.scale)) if self.scale else 1.0

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
