"""Budgets met by all groups together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.planning.policies.base import Scores
from fxprune.planning.policies.budgets import Budgeted
from fxprune.planning.policies.layer_budget import evened
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
    """What is worth most (`fxprune.planning.search.problem`): steps go by worth per cost at the margin, then are exchanged; the
    best of several starts. It is worth no less than one ranking of all channels that meets the budgets, nor than what
    ``scope="layer"`` chooses."""

    plain: ClassVar[type[LayerRatio]] = GlobalRatio

    def started(
        self, analysis: Analysis, scores: Scores, tightened: float, plain: type[LayerRatio] | None = None
    ) -> tuple[Problem, np.ndarray]:
        """By one ranking, or by layer where that is worth more."""
        problem, state = super().started(analysis, scores, tightened, plain)
        if (state == problem.tops).all():
            return problem, state
        other, level = super().started(analysis, scores, tightened, LayerRatio)
        level = evened(other, level)
        by_ranking, by_layer = (p.value(s) - p.whole for p, s in ((problem, filled(problem, state)), (other, level)))
        return (problem, state) if by_ranking >= by_layer else (other, level)

    def search(self, problem: Problem, state: np.ndarray) -> np.ndarray:
        if (state == problem.tops).all():
            return state
        start = filled(problem, state)
        greedy = improved(problem, filled(problem, lowered(problem, problem.tops, problem.targets)))
        relaxed = problem.state_of(np.floor(upper_bound(problem, greedy)[1]).astype(np.int64).tolist())
        relaxed = improved(problem, filled(problem, lowered(problem, relaxed, problem.targets)))
        found = [start, improved(problem, start), greedy, relaxed]
        best = max((s for s in found if problem.fits(s)), key=problem.value)
        return nearer(problem, best, _DOWN, problem.value(start))
