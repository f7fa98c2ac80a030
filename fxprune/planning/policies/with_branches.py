"""Whole residual branches beside channels, in the same budget: any policy chooses the channels, and a search the branches.

What channels are worth is what `fxprune.planning.search.problem` says: ``w log s`` for a group that keeps a share ``s`` of its
saliency; ``w`` is the saliency, times the share of the MACs that runs through a channel. A branch that goes costs

    effect * (sum of w of the groups inside + sum of w * share of the groups to which it is added)

where the share is that of its layers among those that make the channels (a channel of five layers loses a fifth), and the
effect, where there are images, what the model's output loses with the branch as a multiple of the median over all branches
(`fxprune.statistics.branch_effects`). That is what all its channels are worth at first order: ``log s = s - 1``, ``s = 0``.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.branches import Branch
from fxprune.errors import BudgetUnreachable, InputError, nearest, shown
from fxprune.planning.accounting import spent, targets_of
from fxprune.planning.policies.base import Policy, Scores, chosen

__all__ = ["candidates", "chosen_with_branches", "scores_of_branches"]

_FAILURES = 4  # branches in a row that bring nothing, after which the search ends
_MOST = 40  # times that channels are chosen
_LEAST = 1e-6  # share of a group, as in `fxprune.planning.search.problem`
Gone = dict[str, np.ndarray]
Effects = Mapping[str, float] | None


def candidates(analysis: Analysis, asked: bool | Iterable[str]) -> list[Branch]:
    """The branches that are there and may go, of those that are asked for by name or glob; True asks for all.

    Raises:
        InputError: a pattern matches no branch, or none that may go.
    """
    known = analysis.branches.all
    patterns = ["*"] if asked is True else [] if asked is False else list(asked)
    for pattern in patterns if asked is not True else ():
        found = [branch for name, branch in known.items() if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise InputError(f"branches={shown(pattern)} matches no residual branch{nearest(pattern, list(known))}")
        if all(branch.reason for branch in found):
            raise InputError(f"branches={shown(pattern)}: {found[0].id!r} cannot go: {found[0].reason}")
    there = [b for b in known.values() if b.id not in analysis.without_branches and not b.nodes <= analysis.dropped]
    return [b for b in there if not b.reason and any(fnmatch.fnmatchcase(b.id, p) for p in patterns)]


def scores_of_branches(analysis: Analysis, scores: Scores, effects: Effects = None) -> dict[str, np.ndarray]:
    """``{branch: [its score]}``: the scores of all channels that go with it; of branches without any, none."""
    merit = _Merit(analysis, scores, effects, weighed=False)
    found = {branch.id: merit.price(branch.id) for branch in analysis.branches.all.values() if not branch.reason}
    return {name: np.array([score]) for name, score in found.items() if score is not None}


def chosen_with_branches(policy: Policy, analysis: Analysis, scores: Scores, effects: Effects = None) -> Gone:
    """What goes: channels as the policy chooses them, and branches, where that leaves more for the other channels.

    Branches are tried one after the other, those first that are worth least for what they cost; each time the policy chooses
    channels anew, within the budgets. A branch stays gone if what is kept is worth more than before.

    Raises:
        InputError: no choice meets the budgets, even without all branches that may go.
    """
    merit = _Merit(analysis, scores, effects, bool(getattr(policy.options.criterion, "additive", False)))
    branches = [b for b in candidates(analysis, policy.options.branches) if merit.price(b.id) is not None]
    search = _Search(replace(policy, options=replace(policy.options, branches=False)), analysis, scores, merit)
    best, rest = search.started(branches)
    failures = 0
    for branch in search.cheapest_first(rest, best):
        if failures == _FAILURES or search.tries == _MOST:
            break
        found = search.without([*best.branches, branch.id])
        if found is not None and found.value > best.value + 1e-12:
            best, failures = found, 0
        else:
            failures += 1
    return best.gone | {name: np.zeros(1, np.int64) for name in best.branches}


@dataclass(frozen=True, eq=False)
class _Found:
    branches: list[str]
    gone: Gone
    value: float


@dataclass(eq=False)
class _Search:
    """Choices of channels for sets of branches that are gone."""

    policy: Policy
    analysis: Analysis
    scores: Scores
    merit: _Merit
    tries: int = 0

    def started(self, branches: list[Branch]) -> tuple[_Found, list[Branch]]:
        """The first choice that meets the budgets, with as few branches gone as that takes, and the other branches."""
        gone: list[str] = []
        found = self.without(gone)
        left = branches if found else self.cheapest_first(branches, _Found([], {}, 0.0))
        while found is None and left:
            gone, left = [*gone, left[0].id], left[1:]
            found = self.without(gone)
        return found or self._chosen(gone), [b for b in branches if b.id not in gone]

    def without(self, branches: list[str]) -> _Found | None:
        """The choice without these branches; None if there is none."""
        try:
            return self._chosen(branches)
        except BudgetUnreachable:
            return None

    def _chosen(self, branches: list[str]) -> _Found:
        self.tries += 1
        reduced = self.analysis.without(branches)
        left = {g.id: self.scores[g.id] for g in reduced.free if g.id in self.scores}
        gone = chosen(self.policy, reduced, left)
        return _Found(branches, gone, self.merit.value(branches, gone))

    def cheapest_first(self, branches: list[Branch], found: _Found) -> list[Branch]:
        """In the order of what each takes for what it saves, where these channels are gone."""
        targets, names = targets_of(self.analysis, self.policy.options), self.policy.options.budgets
        reduced = self.analysis.without(found.branches)
        before = spent(reduced.cut(found.gone), names)
        prices: dict[str, float] = {}
        for branch in branches:
            after = spent(reduced.cut({**found.gone, branch.id: np.zeros(1, np.int64)}), names)
            saved = sum((before[name] - after[name]) / max(targets[name], 1) for name in names)
            value = self.merit.value([*found.branches, branch.id], found.gone)
            prices[branch.id] = (found.value - value) / max(saved, 1e-12)
        return sorted(branches, key=lambda branch: prices[branch.id])


@dataclass(eq=False)
class _Merit:
    """What channels and branches are worth.

    Attributes:
        effects: of each branch on the model's output (`fxprune.statistics.branch_effects`); None: not measured.
        additive: scores are losses that can be summed.
        weighed: by the MACs that run through a channel.
    """

    analysis: Analysis
    scores: Scores
    effects: Effects = None
    additive: bool = False
    weighed: bool = True

    @cached_property
    def _weights(self) -> dict[str, float]:
        groups = self.analysis.full.free
        if self.additive or not self.weighed:
            return {g.id: 1.0 for g in groups}
        costs, sizes = self.analysis.full.polynomials.only(["macs"]), np.array([g.size for g in groups], np.float64)
        shares = np.maximum(costs.slopes(sizes)[0] / max(float(costs.values(sizes)[0]), 1.0), 1e-9)
        return {g.id: float(share) for g, share in zip(groups, shares, strict=True)}

    @cached_property
    def _saliency(self) -> dict[str, np.ndarray]:
        """Of the channels of each group with scores; scores below zero are shifted up to it, unless they are summed."""
        found = {g.id: np.asarray(self.scores[g.id], np.float64) for g in self.analysis.full.free if g.id in self.scores}
        low = 0.0 if self.additive else min([0.0, *(float(s.min()) for s in found.values())])
        return {name: given - low for name, given in found.items()}

    @cached_property
    def _whole(self) -> dict[str, float]:
        """What each group is worth: ``w``."""
        return {name: self._weights[name] * float(given.sum()) for name, given in self._saliency.items()}

    def _thinned(self, name: str, gone: Mapping[str, np.ndarray]) -> float:
        """What a group is worth less where these channels are gone: a number of at most 0."""
        given = self._saliency[name]
        if name not in gone or not self._whole[name]:
            return 0.0
        kept = float(np.delete(given, gone[name]).sum())
        if self.additive:
            return kept - float(given.sum())
        return self._whole[name] * math.log(max(kept / float(given.sum()), _LEAST))

    # -- branches ----------------------------------------------------------------------------------------------------

    @cached_property
    def _branches(self) -> dict[str, Branch]:
        return {branch.id: branch for branch in self.analysis.branches.all.values() if not branch.reason}

    @cached_property
    def _inside(self) -> dict[str, set[str]]:
        """Branch -> the groups with scores that lie in it, all of them."""
        groups = [(g.id, {m.name for m in g.members}) for g in self.analysis.full.free if g.id in self.scores]
        return {b.id: {name for name, tensors in groups if tensors <= set(b.tensors)} for b in self._branches.values()}

    @cached_property
    def _added(self) -> dict[str, float]:
        """Branch -> what the groups lose to which it is added: the share that its layers have among those that make them."""
        found = dict.fromkeys(self._branches, 0.0)
        for group in self.analysis.full.free:
            producers = [m.name for m in group.members if m.role == "producer"]
            for branch in self._branches.values() if group.id in self._whole else ():
                mine = sum(name in branch.tensors for name in producers)
                if mine and group.id not in self._inside[branch.id]:
                    found[branch.id] += self._whole[group.id] * mine / len(producers)
        return found

    def _effect(self, branch: str) -> float:
        if not self.effects:
            return 1.0
        middle = max(float(np.median([*self.effects.values()])), 1e-12)
        return self.effects.get(branch, middle) / middle

    def price(self, branch: str) -> float | None:
        """What a branch is worth; None where nothing of it has a score."""
        inside, added = self._inside[branch], self._added[branch]
        return self._effect(branch) * (added + sum(self._whole[name] for name in inside)) if inside or added else None

    def value(self, branches: Iterable[str], gone: Mapping[str, np.ndarray]) -> float:
        """What the model is worth less without these branches and channels: a number of at most 0."""
        branches = list(branches)
        most: dict[str, float] = {}
        for name in branches:
            for group in self._inside[name]:
                most[group] = max(most.get(group, 0.0), self._effect(name))
        lost = sum(self._effect(name) * self._added[name] for name in branches)
        lost += sum(effect * self._whole[group] for group, effect in most.items())
        return sum(self._thinned(name, gone) for name in self._whole if name not in most) - lost
