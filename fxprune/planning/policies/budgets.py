"""What policies under budgets share: the problem, and the plain ratio that meets the budgets, from which they go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.options import BUDGETS
from fxprune.planning.accounting import problem_of, spent, targets_of, unreachable
from fxprune.planning.policies.base import Policy, Scores
from fxprune.planning.policies.ratio import LayerRatio
from fxprune.planning.search.problem import Problem

__all__ = ["Budgeted"]

_CHANNELS = 0.25  # by so many of all, ratios make no difference
_TRIES = 20


@dataclass(frozen=True)
class Budgeted(Policy):
    """Chooses how many channels each group keeps, so that the budgets are met; of each group the lowest scores go.

    Attributes:
        plain: the policy of the same scope for a ratio. No less saliency is kept than by its smallest ratio that meets the
            budgets.
    """

    plain: ClassVar[type[LayerRatio]]

    def search(self, problem: Problem, state: np.ndarray) -> np.ndarray:
        """A state within the budgets from one within them, that of the plain ratio: int array ``[groups]``."""
        raise NotImplementedError

    def choose(self, analysis: Analysis, scores: Scores) -> dict[str, np.ndarray]:
        """
        Raises:
            InputError: no choice meets the budgets.
        """
        groups, tightened = analysis.free, 1.0
        for _ in range(_TRIES):
            problem, state = self.started(analysis, scores, tightened)
            kept = problem.keeps(self.search(problem, state))
            gone = {g.id: self._lowest(scores[g.id], g.size - int(k)) for g, k in zip(groups, kept, strict=True) if k < g.size}
            if problem.costs.exact:
                return gone
            targets, left = targets_of(analysis, self.options), spent(analysis.cut(gone), self.options.budgets)
            over = max(left[name] / targets[name] for name in targets)
            if over <= 1:
                return gone
            tightened *= 0.999 / over
        raise unreachable(analysis, self, scores)

    @staticmethod
    def _lowest(scores: np.ndarray, count: int) -> np.ndarray:
        return np.sort(np.argsort(scores, kind="stable")[:count])

    def started(
        self, analysis: Analysis, scores: Scores, tightened: float, plain: type[LayerRatio] | None = None
    ) -> tuple[Problem, np.ndarray]:
        """The problem, and the state of the smallest plain ratio that meets the budgets.

        Args:
            plain: another policy for a ratio than `plain`.
        """
        groups = analysis.free
        everything = problem_of(analysis, self, scores, (), tightened)
        if everything.fits(everything.tops):
            return everything, everything.tops
        ordered = {name: np.sort(found, kind="stable") for name, found in scores.items()}  # to be sorted again, in no time
        low, high, best = 0.0, 1.0, None  # ratios that do not meet the budgets, and that do
        while (high - low) * sum(g.size for g in groups) > _CHANNELS:
            middle = (low + high) / 2
            kept, whole = self._plainly(plain or self.plain, analysis, ordered, middle)
            if (everything.costs.values(np.array(kept, np.float64)) <= everything.targets).all():
                high, best = middle, (kept, whole)
            else:
                low = middle
        for kept, whole in [best] if best else [([0] * len(groups), w) for w in self._sides(analysis, scores)]:
            problem = problem_of(analysis, self, scores, whole, tightened)
            state = problem.state_of(kept)
            if problem.fits(state):
                return problem, state
        raise unreachable(analysis, self, scores)

    def _plainly(self, kind: type[LayerRatio], analysis: Analysis, scores: Scores, ratio: float) -> tuple[list[int], set[str]]:
        """What each group keeps by a ratio, and the groups that stay whole because others of a grouped convolution go."""
        by_ratio: dict[str, Any] = {**dict.fromkeys(BUDGETS), "ratio": ratio}
        plain = kind(replace(self.options, **by_ratio))
        groups = [g for g in analysis.free if g.id in scores and len(self.levels(g)) > 1]
        found = plain.numbers(groups, scores, analysis.exclusive)
        tops = [int(self.levels(g)[-1]) if g.id in scores else g.size for g in analysis.free]
        kept = [min(top, g.size - self.within(g, found.get(g.id, 0))) for g, top in zip(analysis.free, tops, strict=True)]
        return kept, {g.id for g in groups if g.id not in found}

    def _sides(self, analysis: Analysis, scores: Scores) -> Sequence[set[str]]:
        """Where no ratio is enough: of groups that exclude each other, those that could go furthest may; or the others."""

        def least(group: Group) -> float:
            return float(self.levels(group)[0]) / group.size

        found = []
        for sign in (1, -1):
            whole: set[str] = set()
            for group in sorted(analysis.free, key=lambda g: sign * least(g)):
                if group.id not in whole and group.id in scores:
                    whole |= analysis.exclusive.get(group.id, set())
            found.append(whole)
        return found
