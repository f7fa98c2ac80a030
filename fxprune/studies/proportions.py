"""From the proportion in which the stages of a model give up channels to the smallest ratios that meet the budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.errors import InputError
from fxprune.options import Per, PruneOptions
from fxprune.planning.accounting import spent, targets_of
from fxprune.planning.policies import chosen, policy_of
from fxprune.rewrite import Rewritten, rewrite

__all__ = ["Fitting"]

_HALVINGS = 24


class Fitting:
    """From a proportion to the smallest ratios in it that meet the budgets.

    Args:
        budgets: the options.
        stages: their names.

    Attributes:
        whole: groups that could not be rewritten in a trial, and stay whole in all later ones.
    """

    def __init__(
        self, analysis: Analysis, scores: Mapping[str, np.ndarray], budgets: PruneOptions, stages: Sequence[str]
    ) -> None:
        self._analysis, self._scores, self._budgets, self._stages = analysis, scores, budgets, stages
        self._targets = targets_of(analysis, budgets)
        self.whole: set[str] = set()

    def options(self, ratios: Mapping[str, float]) -> PruneOptions:
        """As a plan stores them."""
        given: Any = {name: getattr(self._budgets, name) for name in ("max_ratio", "round_to", "attention", "seed", "ignore")}
        return PruneOptions(dict(ratios), self._budgets.criterion, **given)

    def __call__(self, proportion: Mapping[str, float]) -> tuple[dict[str, float], Rewritten]:
        """
        Raises:
            InputError: the stages cannot meet the budgets.
        """
        while True:
            ratios = self._ratios(proportion)
            rewritten = rewrite(self._analysis, self._gone(ratios))
            if not rewritten.frozen:
                return ratios, rewritten
            self.whole |= rewritten.frozen.keys()

    def _ratios(self, proportion: Mapping[str, float]) -> dict[str, float]:
        most = max(_values(self._budgets.max_ratio))  # where there are several, the policy holds each group to its own
        low, high = 0.0, 1 / min(proportion.values())
        best = self._at(proportion, high, most)
        if not self._fits(best):
            raise InputError(
                f"the stages {', '.join(self._stages)} cannot meet the budgets, whatever they give up: name more of them, "
                "or raise max_ratio"
            )
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            ratios = self._at(proportion, middle, most)
            if self._fits(ratios):
                high, best = middle, ratios
            else:
                low = middle
        return best

    @staticmethod
    def _at(proportion: Mapping[str, float], scale: float, most: float) -> dict[str, float]:
        return {name: min(most, scale * share) for name, share in proportion.items()}

    def _fits(self, ratios: Mapping[str, float]) -> bool:
        cut = self._analysis.cut(self._gone(ratios))
        return all(cost <= self._targets[name] for name, cost in spent(cut, self._targets).items())

    def _gone(self, ratios: Mapping[str, float]) -> dict[str, np.ndarray]:
        found = chosen(policy_of(self.options(ratios)), self._analysis, self._scores)
        return {name: channels for name, channels in found.items() if name not in self.whole}


def _values(limit: Per) -> list[float]:
    """Those of one number or of several, below 1."""
    return [min(each, 1 - 1e-9) for each in (limit.values() if isinstance(limit, Mapping) else [limit])] or [1 - 1e-9]
