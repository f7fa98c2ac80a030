"""From budgets to numbers, and from what goes to the account of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.costs import Costs, Joined
from fxprune.analysis.cut import Cut
from fxprune.errors import BudgetUnreachable, InputError
from fxprune.options import PruneOptions
from fxprune.planning.account import Account, Budget
from fxprune.planning.policies.base import Policy, Scores
from fxprune.planning.search.bound import upper_bound
from fxprune.planning.search.greedy import filled, lowered
from fxprune.planning.search.nearness import NEAR, nearness
from fxprune.planning.search.problem import Problem

__all__ = ["account_of", "problem_of", "samples_of", "spent", "targets_of", "unreachable"]


_COSTS: dict[str, Callable[[Analysis], Costs]] = {
    "macs": lambda analysis: analysis.polynomials.only(["macs"]),
    "params": lambda analysis: analysis.polynomials.only(["params"]),
    "memory": lambda analysis: analysis.memory,
    "latency": lambda analysis: _latency(analysis),
}
_SPENT: dict[str, Callable[[Cut], int]] = {
    "macs": lambda cut: cut.total_macs,
    "params": lambda cut: cut.params,
    "memory": lambda cut: cut.total_memory,
    "latency": lambda cut: math.ceil(_latency(cut.analysis).values(_kept(cut))[0]),
}
_WHOLE = "the model is within the budgets as it is: nothing was removed"
_OF_SAMPLES = ("macs", "memory")  # these grow with the batch, and are given for one sample


def spent(cut: Cut, names: Iterable[str]) -> dict[str, int]:
    """What a cut costs: MACs, bytes and nanoseconds of the whole batch, and parameters."""
    return {name: _SPENT[name](cut) for name in names}


def _latency(analysis: Analysis) -> Costs:
    if analysis.latency is None:
        raise InputError("a budget of latency needs a table of what was measured: pass profile=fxprune.profile(model, ...)")
    return analysis.latency.within(analysis)


def _kept(cut: Cut) -> np.ndarray:
    return np.array([group.size - len(cut.gone.get(group.id, ())) for group in cut.analysis.free], np.float64)


def targets_of(analysis: Analysis, options: PruneOptions) -> dict[str, int]:
    """The most of each cost that has a budget, as `spent` gives it."""
    found = {}
    for name, whole in spent(analysis.full.cut(), options.budgets).items():
        asked = options.budgets[name]
        most = whole * asked if asked < 1 else asked * samples_of(analysis, name)
        found[name] = min(whole, math.floor(most))
    return found


def samples_of(analysis: Analysis, name: str) -> int:
    """By what a cost of the whole batch is divided."""
    return analysis.batch if name in _OF_SAMPLES else 1


def problem_of(
    analysis: Analysis, policy: Policy, scores: Scores, whole: Collection[str] = (), tightened: float = 1.0
) -> Problem:
    """The problem that budgets pose.

    Args:
        scores: groups without any stay whole.
        whole: groups that stay whole, too.
        tightened: a factor of the budgets.
    """
    targets = targets_of(analysis, policy.options)
    costs = Joined([_COSTS[name](analysis) for name in targets])
    limits = np.array([targets[name] * tightened for name in costs.names])
    groups = analysis.free
    ranked = [None if g.id in whole or g.id not in scores else np.asarray(scores[g.id]) for g in groups]
    additive = bool(getattr(policy.options.criterion, "additive", False))
    return Problem.of((costs, limits), [policy.levels(g) for g in groups], ranked, _macs_of_channels(analysis), additive)


def _macs_of_channels(analysis: Analysis) -> np.ndarray:
    """Float array ``[groups]``: what share of the MACs runs through one channel. A channel of twenty layers does more than one
    between two of them, whatever the budget is of."""
    costs, sizes = analysis.polynomials.only(["macs"]), np.array([g.size for g in analysis.free], np.float64)
    shares: np.ndarray = costs.slopes(sizes)[0] / max(float(costs.values(sizes)[0]), 1.0)
    return np.maximum(shares, 1e-9)


def account_of(cut: Cut, policy: Policy, scores: Scores) -> Account:
    """How a cut, made under budgets, meets them.

    Raises:
        InputError: it does not.
    """
    analysis, options = cut.analysis, policy.options
    after, before = (spent(each, options.budgets) for each in (cut, analysis.full.cut()))
    targets, budgets = targets_of(analysis, options), []
    for name, asked in options.budgets.items():
        samples = samples_of(analysis, name)
        if after[name] > targets[name]:
            raise InputError(
                f"policy {type(policy).__name__} exceeds the budget: {after[name] / samples:,.0f} {name} are left where "
                f"{targets[name] / samples:,.0f} are allowed"
            )
        budgets.append(Budget(name, asked, targets[name] // samples, *(round(e[name] / samples) for e in (before, after))))
    whole = {other for name in cut.gone for other in analysis.exclusive.get(name, ())} - cut.gone.keys()
    problem = problem_of(analysis, policy, scores, whole)
    kept = [g.size - len(cut.gone.get(g.id, ())) for g in analysis.free]
    state = problem.state_of(kept)
    start = state if problem.fits(state) else filled(problem, lowered(problem, problem.tops, problem.targets))
    value = problem.value(state)
    share, most = (_digits(problem.share(each)) for each in (value, max(value, upper_bound(problem, start)[0])))
    notes = _distance(problem, state, cut, options)
    if gone := analysis.without_branches:
        what = f"{len(gone)} residual branches go" if len(gone) > 1 else "a residual branch goes"
        notes.append(f"{what} as a whole; the saliency and its bound are those of the channels beside")
    return Account(budgets, share, most, notes)


def _digits(share: float) -> float:
    return float(f"{share:.6g}")


def _distance(problem: Problem, state: np.ndarray, cut: Cut, options: PruneOptions) -> list[str]:
    """Why a plan ends further below all budgets than one per cent."""
    branches = cut.analysis.without_branches
    if (state == problem.tops).all() and not cut.gone:
        return ["without the branches the model is within the budgets: no channel goes" if branches else _WHOLE]
    bound, near = np.isfinite(problem.targets), nearness(problem, state)
    if near >= NEAR:
        return []
    groups = cut.analysis.free
    steps = []
    for number, group in enumerate(groups):
        if state[number] < problem.tops[number]:
            above = state.copy()
            above[number] += 1
            share = float((problem.values(above) / problem.targets)[bound].max())
            wide = int(problem.wide[problem.start[number] + above[number]])
            steps.append((share, wide, group.id))
    if not steps:
        return [f"{1 - near:.1%} are left below the nearest budget: every group keeps all that it may"]
    share, wide, name = min(steps)
    step = f"{wide} channel{'s' if wide > 1 else ''} of {name!r}" + (_multiples(options) if wide > 1 else "")
    if share <= 1:
        return [f"the policy {options.scope!r} stopped {1 - near:.1%} below the nearest budget: {step} would still fit"]
    exceeds = f"the smallest step, {step}, exceeds it, and what was tried in exchange exceeds it, too, or keeps less"
    return [f"{1 - near:.1%} are left below the nearest budget: {exceeds}"]


def _multiples(options: PruneOptions) -> str:
    return f" (round_to={options.round_to})" if options.round_to != 1 else ""


def unreachable(analysis: Analysis, policy: Policy, scores: Scores) -> InputError:
    """What to raise where no choice of channels meets the budgets: what is left at least, and what binds."""
    options, targets = policy.options, targets_of(analysis, policy.options)
    problem = problem_of(analysis, policy, scores)
    least = _by_name(problem.costs.names, problem.values(np.zeros_like(problem.tops)))
    single = np.array([1.0 if g.id in scores else g.size for g in analysis.free])
    alone = _by_name(problem.costs.names, problem.costs.values(single))
    widths = f" and min_width={options.min_width}" if options.min_width != 1 else ""
    limits = f"max_ratio={options.max_ratio}{widths}" + _multiples(options).replace("(", "and ").rstrip(")")
    texts = []
    for name in [name for name in targets if least[name] > targets[name]] or list(targets):
        what = limits if alone[name] <= targets[name] else "what is frozen or protected (fxprune.why says by what)"
        allowed, left = (f"{count / samples_of(analysis, name):,.0f}" for count in (targets[name], least[name]))
        texts.append(
            f"{name}={options.budgets[name]:g} allows {allowed}, where {left} remain if every group keeps its least; "
            f"what binds is {what}"
        )
    return BudgetUnreachable(f"no choice of channels meets the budgets: {'; '.join(texts)}")


def _by_name(names: Iterable[str], values: np.ndarray) -> dict[str, float]:
    """Of each cost the largest of its rows."""
    found: dict[str, float] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        found[name] = max(value, found.get(name, 0.0))
    return found
