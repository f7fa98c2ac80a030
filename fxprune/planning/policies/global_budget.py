"""Budgets met by all groups together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.planning.policies.budgets import Budgeted
from fxprune.planning.policies.ratio import GlobalRatio, LayerRatio
from fxprune.planning.search.bound import upper_bound
from fxprune.planning.search.exchange import improved
from fxprune.planning.search.greedy import filled, lowered
from fxprune.planning.search.nearness import nearer
from fxprune.planning.search.problem import Problem

__all__ = ["GlobalBudget"]


_DOWN = 6  # steps of a group, where single ones leave a gap below the budgets


@dataclass(frozen=True)
class GlobalBudget(Budgeted):
    """As much saliency as fits: steps go by saliency per cost at the margin, then are exchanged; the best of several starts.

    The saliency weighs scores by costs (`fxprune.planning.search.problem`); the plain sum of the scores, too, is never less
    than by the ratio.
    """

    plain: ClassVar[type[LayerRatio]] = GlobalRatio

    def search(self, problem: Problem, state: np.ndarray) -> np.ndarray:
        if (state == problem.tops).all():
            return state
        least, start = problem.scores(state), filled(problem, state)
        greedy = improved(problem, filled(problem, lowered(problem, problem.tops, problem.targets)))
        relaxed = problem.state_of(np.floor(upper_bound(problem, greedy)[1]).astype(np.int64).tolist())
        relaxed = improved(problem, filled(problem, lowered(problem, relaxed, problem.targets)))
        found = [start, improved(problem, start, least), greedy, relaxed]
        best = max((s for s in found if problem.fits(s) and problem.scores(s) >= least), key=problem.saliency)
        return nearer(problem, best, _DOWN, problem.saliency(state), least)
