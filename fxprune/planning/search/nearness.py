"""Nearer to the budgets, where single steps leave a gap: a few steps down in one group, and others up in their place."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from fxprune.planning.search.greedy import filled
from fxprune.planning.search.problem import Problem

__all__ = ["NEAR", "nearer", "nearness"]

NEAR = 0.99  # of a budget: closer needs no search and no explanation
_STATES = 2_500  # that are all tried
_TRIALS = 400
_WORK = 6_000  # groups of all trials


def nearness(problem: Problem, state: np.ndarray) -> float:
    """What is used of the budget that is used most, as a share of it."""
    bound = np.isfinite(problem.targets)
    return float((problem.values(state) / np.maximum(problem.targets, 1e-9))[bound].max())


def nearer(problem: Problem, state: np.ndarray, down: int, least: float = -np.inf) -> np.ndarray:
    """The state of the most worth that is found within one per cent of a budget; where none is, the nearest.

    Small models and coarse multiples have few states, and the one of the most worth may be far from the budget.

    Args:
        down: so many steps are tried in each group.
        least: no state of less worth is taken.
    """
    if nearness(problem, state) >= NEAR or (state == problem.tops).all():
        return state
    best, reached = state, nearness(problem, state)
    for trial in _around(problem, state, down):
        if not problem.fits(trial) or problem.value(trial) < least:
            continue
        near = nearness(problem, trial)
        nearer_yet = min(near, NEAR) > min(reached, NEAR)
        if nearer_yet or (min(near, reached) >= NEAR and problem.value(trial) > problem.value(best)):
            best, reached = trial, near
    return best


def _around(problem: Problem, state: np.ndarray, down: int) -> Iterator[np.ndarray]:
    """All states within so many steps where those are few; else steps down, in one or two groups, and others up for them."""
    ranges = [
        range(max(0, s - down), min(top, s + down) + 1) for s, top in zip(state.tolist(), problem.tops.tolist(), strict=True)
    ]
    if math.prod(map(len, ranges)) <= _STATES:
        yield from (np.array(each, np.int64) for each in itertools.product(*ranges))
        return
    single = [(group, steps) for group in np.flatnonzero(state).tolist() for steps in range(1, down + 1)]
    pairs = (pair for pair in itertools.combinations(single, 2) if pair[0][0] != pair[1][0])
    trials = itertools.chain(((move,) for move in single), pairs)
    for moves in itertools.islice(trials, min(_TRIALS, _WORK // len(state))):
        low = state.copy()
        for group, steps in moves:
            low[group] = max(0, low[group] - steps)
        high = filled(problem, low)
        yield high
        if nearness(problem, high) < NEAR:
            yield _packed(problem, low, [group for group, _ in moves])


def _packed(problem: Problem, state: np.ndarray, closed: list[int]) -> np.ndarray:
    """Steps up of other groups, each time that which comes nearest to the budgets, until none fits."""
    state = state.copy()
    while True:
        found = []
        for group in np.flatnonzero(state < problem.tops).tolist():
            if group not in closed:
                state[group] += 1
                if problem.fits(state):
                    found.append((nearness(problem, state), -group))
                state[group] -= 1
        if not found:
            return state
        state[-max(found)[1]] += 1
