"""Budgets met by a ranking among the groups of each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.planning.policies.budgets import Budgeted
from fxprune.planning.policies.ratio import IsomorphicRatio, LayerRatio
from fxprune.planning.search.greedy import filled
from fxprune.planning.search.nearness import nearer
from fxprune.planning.search.problem import Problem

__all__ = ["IsomorphicBudget"]

_DOWN = 2  # steps of a group, where single ones leave a gap below the budgets


@dataclass(frozen=True)
class IsomorphicBudget(Budgeted):
    """Each kind of groups gives up the same share, the smallest that meets the budgets, by a ranking of its own; then steps
    come back, those first that are worth most for what they cost."""

    plain: ClassVar[type[LayerRatio]] = IsomorphicRatio

    def search(self, problem: Problem, state: np.ndarray) -> np.ndarray:
        return nearer(problem, filled(problem, state), _DOWN, problem.value(state))
