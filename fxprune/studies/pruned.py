"""The channels that go by each criterion: by a ratio, or under a budget, so that criteria are compared at equal costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.errors import InputError
from fxprune.options import PruneOptions, Scope, real, several
from fxprune.planning.policies import chosen, policy_of
from fxprune.planning.policies.ratio import GlobalRatio, LayerRatio
from fxprune.studies.scoring import Scored, Unit

__all__ = ["Pruned", "budgets_of"]

Budgets = Mapping[str, Sequence[float]]  # of each cost the fractions or counts that are kept


def budgets_of(unit: Unit, **given: Any) -> dict[str, tuple[float, ...]]:
    """The budgets that a user names, checked; those that are None are left out.

    >>> budgets_of("group", macs=[0.5, 0.25], params=None)
    {'macs': (0.5, 0.25)}

    Raises:
        InputError: they are none, or layers on their own are ranked, whose costs depend on their neighbours.
    """
    found = {}
    for name, amounts in given.items():
        if amounts is None:
            continue
        listed = [amounts] if isinstance(amounts, str) or real(amounts) is not None else [*several(amounts, name)]
        if not listed:
            raise InputError(f"{name} names no budget: give what is kept, as 0.5, or several")
        checked = [PruneOptions(**{name: amount}).budgets[name] for amount in listed]
        found[name] = tuple(dict.fromkeys(checked))
    if found and unit == "layer":
        raise InputError("budgets are of groups of coupled channels: leave out unit='layer', or the budgets")
    return found


class Pruned:
    """Which channels each criterion would take.

    Args:
        units: what is ranked.
        budgets: under which groups are cut, too.
    """

    def __init__(
        self, analysis: Analysis, units: Sequence[Group], ratios: Sequence[float], budgets: Budgets, unit: Unit
    ) -> None:
        self._analysis, self._units = analysis, list(units)
        self._exclusive = analysis.exclusive if unit == "group" else {}
        self.cuts = [("", ratio) for ratio in ratios] + [(name, kept) for name, each in budgets.items() for kept in each]
        self._known: dict[tuple[int, str, str, float], dict[str, np.ndarray]] = {}
        self._criteria: dict[int, Scored] = {}  # kept alive, so that their ids stay their own

    def check(self) -> None:
        """
        Raises:
            InputError: a budget cannot be met, by whatever scores.
        """
        even = Scored(*({unit.id: np.arange(1.0, unit.size + 1) for unit in self._units} for _ in range(2)))
        for scope in ("layer", "global"):
            for name, kept in self.cuts:
                if name:
                    self(even, None, scope, (name, kept))

    def __call__(
        self, scored: Scored, criterion: Callable[..., Any] | None, scope: str, cut: tuple[str, float]
    ) -> dict[str, np.ndarray]:
        """``{unit: channel numbers}`` that go.

        Args:
            criterion: that gave the scores: some are losses that are added up.
            scope: of `fxprune.studies.results.SCOPES`.
            cut: the name of a budget, and what of it is kept; or no name, and the ratio that goes.
        """
        key = (id(scored), scope, *cut)
        if key not in self._known:
            self._criteria[id(scored)] = scored
            self._known[key] = self._chosen(scored.raw if scope == "raw" else scored.ranked, criterion, scope, cut)
        return self._known[key]

    def _chosen(
        self, scores: Mapping[str, np.ndarray], criterion: Callable[..., Any] | None, scope: str, cut: tuple[str, float]
    ) -> dict[str, np.ndarray]:
        name, amount = cut
        if not name:
            kind = LayerRatio if scope == "layer" else GlobalRatio
            return kind(PruneOptions(amount)).choose_among(self._units, scores, self._exclusive)
        within: Scope = "layer" if scope == "layer" else "global"
        options = PruneOptions(**{name: amount}, scope=within)  # type: ignore[arg-type]  # names of budgets
        options = options if criterion is None else replace(options, criterion=criterion)
        return chosen(policy_of(options), self._analysis, scores)
