"""How much worth any plan within the budgets could keep at most.

MACs, parameters and the memory at one moment are sums of products of widths, so each is convex in the logarithms ``y`` of what
groups keep, and so is its own logarithm (the posynomials of geometric programming: Boyd et al., "A tutorial on geometric
programming", 2007, section 2): it lies above each of its tangents, ``log cost(y) >= log cost(y0) + a (y - y0)``. Under the
tangents alone, each a sum over groups, the problem falls apart: with a multiplier ``m >= 0`` for each tangent, no state within
the budgets keeps more than

    sum over groups of max over levels (worth - m a log kept) + m (log target - log cost(y0) + a y0)

whatever the multipliers are (Lagrangian relaxation; Geoffrion, 1974). A linear program over some levels of each group finds
good ones, and where it ends the next tangents are drawn (cutting planes; Kelley, 1960).
"""

from __future__ import annotations

import numpy as np

from fxprune.planning.search.problem import Problem

__all__ = ["upper_bound"]

_ROUNDS = 5
_LEVELS = 24  # of a group, in the linear program
_ENTRIES = 60_000  # of its matrix
_ROWS = 6  # of the costs that tangents are drawn to at a time
_LEAST = 1e-9  # channels, where none are kept: a logarithm is needed


def upper_bound(problem: Problem, state: np.ndarray) -> tuple[float, np.ndarray]:
    """The bound, and what each group keeps where the relaxed problem ends (float array ``[groups]``), to start a search from.

    Args:
        state: a good one, at which the first tangents are drawn.
    """
    if problem.fits(problem.tops) or not len(problem.convex):
        return problem.whole, problem.keeps(problem.tops)
    logs = np.log(np.maximum(problem.kept, _LEAST))
    cuts, limits = np.zeros((0, len(state))), np.zeros(0)
    best, kept = problem.whole, problem.keeps(state)
    for _ in range(_ROUNDS):
        more, their = _tangents(problem, kept)
        cuts, limits = np.vstack([cuts, more]), np.append(limits, their)
        found = _relaxed(problem, cuts, limits)
        if found is None:
            break
        multipliers, kept = found
        priced = problem.worth - (multipliers @ cuts)[problem.owner] * logs
        value = float(np.maximum.reduceat(priced, problem.start).sum() + multipliers @ limits)
        if value > best * (1 - 1e-4):
            best = min(best, value)
            break
        best = value
    return best, kept


def _tangents(problem: Problem, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the rows that are nearest to their budgets: coefficients ``[rows, groups]`` of the logarithms, and what their sums may
    be at most."""
    values = problem.costs.values(kept)
    near = problem.nearest(values, problem.convex, _ROWS)
    values, slopes = np.maximum(values[near], 1e-300), problem.costs.slopes(kept)[near]
    rows = slopes * kept / values[:, None]
    return rows, np.log(problem.targets[near]) - np.log(values) + rows @ np.log(np.maximum(kept, _LEAST))


def _relaxed(problem: Problem, cuts: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Multipliers of the cuts, and what groups keep, by a linear program over mixtures of each group's levels."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, vstack

    each = max(2, min(_LEVELS, _ENTRIES // max(1, len(problem.levels) * (len(cuts) + 1))))
    chosen = np.concatenate([_spread(tops + 1, each) + start for tops, start in zip(problem.tops, problem.start, strict=True)])
    owner, logs = problem.owner[chosen], np.log(np.maximum(problem.kept[chosen], _LEAST))
    count, scale = len(chosen), max(problem.whole, 1e-300)
    mixed = csr_array((np.ones(count), (owner, np.arange(count))), shape=(len(problem.levels), count))
    used = vstack([csr_array(cuts[:, owner] * logs)])
    result = linprog(
        -problem.worth[chosen] / scale, used, limits, mixed, np.ones(len(problem.levels)), bounds=(0, None), method="highs"
    )
    if result.status != 0:
        return None
    kept = np.exp(np.bincount(owner, result.x * logs, len(problem.levels)))
    return np.maximum(0.0, -result.ineqlin.marginals) * scale, kept


def _spread(count: int, most: int) -> np.ndarray:
    """Numbers of up to so many of `count` levels, the first and the last among them, closer together where few is kept."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.rint(np.geomspace(1, count, most)).astype(np.int64) - 1)
