"""From a good state to a better one: take a part back and fill again, then exchange single steps."""

from __future__ import annotations

import numpy as np

from fxprune.planning.search.greedy import filled, lowered
from fxprune.planning.search.problem import Problem

__all__ = ["exchanged", "improved"]

_PARTS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)  # of the budgets
_TIMES = 3
_LEAST = 1e-9  # of all worth: less is none
_TRIALS = 100
_ROWS = 6  # of the costs by which pairs are told apart; those that are taken are within all budgets
_WORK = 10_000_000  # pairs of groups that are compared in all


def improved(problem: Problem, state: np.ndarray) -> np.ndarray:
    """A state within the budgets of at least this one's worth.

    Steps that were taken back early were dear then, and may be cheap now that their neighbours keep less: going below the
    budget and up again, by marginal costs that are right here, finds them.
    """
    for part in _PARTS:
        for _ in range(_TIMES):
            trial = filled(problem, lowered(problem, state, problem.targets * (1 - part)))
            if not problem.fits(trial) or not _better(problem, trial, state):
                break
            state = trial
    return _shaken(problem, exchanged(problem, state))


def _better(problem: Problem, trial: np.ndarray, state: np.ndarray) -> bool:
    return problem.value(trial) > problem.value(state) + _LEAST * problem.whole


def _shaken(problem: Problem, state: np.ndarray) -> np.ndarray:
    """Each group in turn 1, 2, 4, ... steps down, and filled again: where there are few groups, and few steps to be tried."""
    trials = [(group, 1 << k) for group, top in enumerate(problem.tops.tolist()) for k in range(top.bit_length())]
    for group, steps in trials if len(trials) <= _TRIALS else ():
        if steps <= state[group]:
            trial = state.copy()
            trial[group] -= steps
            trial = filled(problem, trial)
            if _better(problem, trial, state):
                state = trial
    return state


def exchanged(problem: Problem, state: np.ndarray) -> np.ndarray:
    """A step up of one group for a step down of another, the best such pair first, while that adds worth and fits."""
    state, bound = state.copy(), np.flatnonzero(np.isfinite(problem.targets))
    groups = len(state)
    for _ in range(min(200, _WORK // max(1, groups * groups))):
        values = problem.values(state)
        near = problem.nearest(values, bound, _ROWS)
        slopes, slack = problem.slopes(state)[near], (problem.targets - values)[near]
        here = problem.start + state
        can_rise, can_fall = state < problem.tops, state > 0
        above = np.minimum(here + 1, len(problem.gain) - 1)
        gain = np.where(can_rise, problem.gain[above], -np.inf)
        loss = np.where(can_fall, problem.gain[here], np.inf)
        better = gain[:, None] - loss[None, :]
        for row, left in zip(slopes, slack, strict=True):
            dearer = (row * problem.wide[above])[:, None] - (row * problem.wide[here])[None, :]
            better = np.where(dearer <= left, better, -np.inf)
        np.fill_diagonal(better, -np.inf)
        if not (moved := _first_that_fits(problem, state, better)):
            break
        state[moved[0]] += 1
        state[moved[1]] -= 1
    return filled(problem, state)


def _first_that_fits(problem: Problem, state: np.ndarray, better: np.ndarray) -> tuple[int, int] | None:
    """Of the pairs (up, down) that add the most, the first that is within the budgets; the slopes say so but nearly."""
    flat = better.ravel()
    count = min(8, len(flat))
    best = np.argpartition(-flat, count - 1)[:count] if len(flat) else np.zeros(0, np.int64)
    for place in best[np.argsort(-flat[best], kind="stable")].tolist():
        if not flat[place] > _LEAST * problem.whole:
            return None
        up, down = divmod(place, len(state))
        trial = state.copy()
        trial[up] += 1
        trial[down] -= 1
        if problem.fits(trial):
            return up, down
    return None
