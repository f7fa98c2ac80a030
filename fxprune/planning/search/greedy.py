"""Down to the budgets and up to them again: steps by worth per cost, many at a time while there is far to go.

What a step costs depends on what the neighbours keep. The marginal costs are those at the present state; they are computed anew
after every batch of steps, and a batch goes a part of the way only, so that none is ever far off.
"""

from __future__ import annotations

import numpy as np

from fxprune.planning.search.problem import Problem

__all__ = ["filled", "lowered"]

_PART = 0.5  # of the way that is left, in one batch


def lowered(problem: Problem, state: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A state within the targets, from which the steps of the least worth per cost are taken back; the least if none is.

    With several budgets a step's cost is the sum of its costs as shares of the targets, each weighed by how far it is from met.
    """
    state = state.copy()
    while True:
        excess = problem.values(state) - targets
        over = excess > 0
        if not over.any() or not state.any():
            return state
        slopes = problem.slopes(state)[over]
        excess, most = excess[over], targets[over]
        price = (excess / most**2) @ slopes
        held = np.flatnonzero((problem.number > 0) & (problem.number <= state[problem.owner]) & (price[problem.owner] > 0))
        if not len(held):
            return np.zeros_like(state)
        owner = problem.owner[held]
        order = np.argsort(problem.gain[held] / (problem.wide[held] * price[owner]), kind="stable")
        held, owner = held[order], owner[order]
        freed = np.cumsum(slopes[:, owner] * problem.wide[held], axis=1)
        count = int((freed < _PART * excess[:, None]).sum(1).min())
        state -= np.bincount(owner[: max(1, count)], minlength=len(state))


def filled(problem: Problem, state: np.ndarray) -> np.ndarray:
    """A state within the budgets, raised by the steps of the most worth per cost until no step fits any more.

    With several budgets a step's cost is the sum of its costs as shares of what is left of each.
    """
    state, bound = state.copy(), np.isfinite(problem.targets)
    convex = problem.costs.convex[bound]
    closed = np.zeros(len(state), bool)  # one more step of these exceeds a budget, and will: costs only grow
    while True:
        slack, slopes = (problem.targets - problem.values(state))[bound], problem.slopes(state)[bound]
        if (slack < 0).any():
            return state
        above = np.minimum(problem.start + state + 1, len(problem.wide) - 1)
        # A convex cost grows by its slope at least.
        closed |= (state == problem.tops) | (slopes * problem.wide[above] > slack[:, None])[convex].any(0)
        steps = np.flatnonzero((problem.number > state[problem.owner]) & ~closed[problem.owner])
        if not len(steps):
            return state
        owner, wide = problem.owner[steps], problem.wide[steps]
        price = np.maximum((1 / np.maximum(slack, 1e-9)) @ slopes, 1e-300)
        order = np.argsort(-problem.gain[steps] / (wide * price[owner]), kind="stable")
        owner, wide = owner[order], wide[order]
        added = np.cumsum(slopes[:, owner] * wide, axis=1)
        count = int((added <= _PART * slack[:, None]).sum(1).min(initial=len(owner)))
        while count > 1 and not problem.fits(trial := state + np.bincount(owner[:count], minlength=len(state))):
            count //= 2
        state = trial if count > 1 else _one_more(problem, state, owner, closed)


def _one_more(problem: Problem, state: np.ndarray, owner: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """One step of the first group that has room; those before it are closed."""
    for group in dict.fromkeys(owner.tolist()):
        trial = state.copy()
        trial[group] += 1
        if problem.fits(trial):
            return trial
        closed[group] = True
    return state
