"""Budgets met by the same share of every group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.planning.policies.budgets import Budgeted
from fxprune.planning.policies.ratio import LayerRatio
from fxprune.planning.search.nearness import NEAR, nearer, nearness
from fxprune.planning.search.problem import Problem

__all__ = ["LayerBudget", "evened"]

_DOWN = 2  # steps of a group, where single ones leave a gap below the budgets


@dataclass(frozen=True)
class LayerBudget(Budgeted):
    """Each group gives up the same share, the smallest that meets the budgets; then groups get a step back, those that keep the
    smallest share first, once each, and again only while every budget is further away than one per cent."""

    plain: ClassVar[type[LayerRatio]] = LayerRatio

    def search(self, problem: Problem, state: np.ndarray) -> np.ndarray:
        return evened(problem, state)


def evened(problem: Problem, state: np.ndarray) -> np.ndarray:
    """The state of a ratio, with steps back; see `LayerBudget`."""
    start, state = state, state.copy()
    sizes = problem.keeps(problem.tops)
    while True:
        before = state.copy()
        for group in np.argsort(problem.keeps(state) / sizes, kind="stable").tolist():
            if state[group] < problem.tops[group]:
                state[group] += 1
                if not problem.fits(state):
                    state[group] -= 1
        if (state == before).all() or nearness(problem, state) >= NEAR:
            return nearer(problem, state, _DOWN, problem.value(start))
