"""Several plans within the same budgets, to be tried out: what keeps the most saliency is not always what computes best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.planning.policies.base import Policy, Scores, chosen
from fxprune.planning.policies.budgets import Budgeted
from fxprune.planning.policies.global_budget import GlobalBudget
from fxprune.planning.policies.ratio import GlobalRatio
from fxprune.planning.search.greedy import filled, lowered
from fxprune.planning.search.nearness import nearer
from fxprune.planning.search.problem import Problem

__all__ = ["Candidate", "candidates_beside"]

_DOWN = 2  # steps of a group, where single ones leave a gap below the budgets
Choose = Callable[[Policy, Analysis, Scores], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Candidate:
    """A policy, and how it is asked."""

    policy: Policy
    choose: Choose


def candidates_beside(policy: Policy) -> dict[str, Candidate]:
    """Names of other plans -> what makes them, beside what a policy chooses under budgets; none where its scope, or scores that
    are losses, say what is wanted."""
    options = policy.options
    if type(policy) is not GlobalBudget or getattr(options.criterion, "additive", False):
        return {}
    alone = replace(options, branches=False)
    kinds: dict[str, type[Policy]] = {"ranking": _Ranking, "between": _Between}
    if options.branches:
        kinds = {"saliency": GlobalBudget, **kinds}
    return {name: Candidate(kind(alone), chosen) for name, kind in kinds.items()}


@dataclass(frozen=True)
class _Ranking(Budgeted):
    """The smallest ratio of one ranking that meets the budgets, filled up to them."""

    plain = GlobalRatio

    def search(self, problem: Problem, state: np.ndarray) -> np.ndarray:
        return nearer(problem, filled(problem, state), _DOWN)


@dataclass(frozen=True)
class _Between(GlobalBudget):
    """Of what the ranking and the search keep of each group the geometric mean, brought to the budgets."""

    def started(self, *given: Any, **named: Any) -> tuple[Problem, np.ndarray]:
        return Budgeted.started(self, *given, **named)

    def search(self, problem: Problem, state: np.ndarray) -> np.ndarray:
        if (state == problem.tops).all():
            return state
        ends = [problem.keeps(each) for each in (filled(problem, state), super().search(problem, state))]
        middle = problem.state_of(np.round(np.sqrt(ends[0] * ends[1])).astype(np.int64).tolist())
        return nearer(problem, filled(problem, lowered(problem, middle, problem.targets)), _DOWN)
