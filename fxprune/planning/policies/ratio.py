"""A ratio of the channels: of each group, of all groups in one ranking, or by the names of layers."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.errors import InputError, nearest
from fxprune.planning.policies.base import Policy, Scores

__all__ = ["ByName", "GlobalRatio", "LayerRatio", "beaten_by"]


@dataclass(frozen=True)
class LayerRatio(Policy):
    """Every group gives up the ratio."""

    def choose(self, analysis: Analysis, scores: Scores) -> dict[str, np.ndarray]:
        return self.choose_among(analysis.free, scores, analysis.exclusive)

    def choose_among(self, groups: Sequence[Group], scores: Scores, exclusive: Mapping[str, Set[str]]) -> dict[str, np.ndarray]:
        """`choose` for any groups: no cost is asked for. `exclusive`: id -> ids of groups that should then stay whole."""
        numbers = self.numbers(groups, scores, exclusive)
        found = {g.id: self.lowest(g, scores[g.id], numbers[g.id]) for g in groups if numbers.get(g.id)}
        return {name: channels for name, channels in found.items() if len(channels)}

    def numbers(self, groups: Sequence[Group], scores: Scores, exclusive: Mapping[str, Set[str]]) -> Mapping[str, int]:
        """How many channels each group would lose, but for the limits; the order of its scores does not matter.

        Groups that stay whole because others, which they exclude, go are left out.
        """
        wanted = self.wanted(groups)
        beaten = beaten_by(scores, wanted, exclusive) if exclusive else set()
        groups = [g for g in groups if g.id not in beaten]
        found = self.counts(groups, scores, wanted)
        return {g.id: found[g.id] for g in groups}

    def wanted(self, groups: Sequence[Group]) -> dict[str, int]:
        """Channels that each group would lose by itself."""
        return {g.id: g.size - _keep(g.size, self._ratio) for g in groups}

    def counts(self, groups: Sequence[Group], scores: Scores, wanted: Mapping[str, int]) -> Mapping[str, int]:
        """Channels that each of the groups loses, those that exclude each other settled."""
        return wanted

    @property
    def _ratio(self) -> float:
        assert self.options.ratio is not None and not isinstance(self.options.ratio, Mapping)
        return self.options.ratio


@dataclass(frozen=True)
class GlobalRatio(LayerRatio):
    """One ranking over all groups: the lowest scores go, each group down to what `max_ratio` leaves it."""

    def counts(self, groups: Sequence[Group], scores: Scores, wanted: Mapping[str, int]) -> Mapping[str, int]:
        total = sum(g.size for g in groups)
        candidates = [np.sort(scores[g.id], kind="stable")[: self.most(g)] for g in groups]
        owner = np.concatenate([np.full(len(c), i) for i, c in enumerate(candidates)])
        order = np.argsort(np.concatenate(candidates), kind="stable")[: round(total * self._ratio)]
        found = np.bincount(owner[order], minlength=len(groups))
        return {g.id: int(n) for g, n in zip(groups, found, strict=True)}


@dataclass(frozen=True)
class ByName(LayerRatio):
    """A ratio for each pattern of tensor or module names: a group takes that of the first pattern that matches one of its
    producers, and stays whole if none does."""

    def wanted(self, groups: Sequence[Group]) -> dict[str, int]:
        assert isinstance(self.options.ratio, Mapping)
        ratios = self.options.ratio
        used: set[str] = set()
        result = {}
        for group in groups:
            names = [m.name for m in group.members if m.role == "producer"] or [m.name for m in group.members]
            found = next((p for p in ratios if any(_matches(n, p) for n in names)), None)
            if found is not None:
                used.add(found)
            result[group.id] = 0 if found is None or not ratios[found] else group.size - _keep(group.size, ratios[found])
        for pattern in ratios:
            if pattern not in used:
                known = [m.name.rpartition(".")[0] for g in groups for m in g.members]
                raise InputError(f"ratio pattern {pattern!r} matches no group that may be pruned{nearest(pattern, known)}")
        return result


def _matches(name: str, pattern: str) -> bool:
    module = name.rpartition(".")[0]
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(module, pattern)


def _keep(size: int, ratio: float) -> int:
    """``int(size * (1 - ratio))``, at least one: the convention of the pruning literature."""
    return max(1, math.floor(size * (1 - ratio) + 1e-9))


def beaten_by(scores: Scores, wanted: Mapping[str, int], exclusive: Mapping[str, Set[str]]) -> set[str]:
    """Of groups that exclude each other, those stay whole for which the same ratio costs the larger share of saliency."""
    share = {name: _share(scores[name], count) for name, count in wanted.items() if name in exclusive and count}
    beaten: set[str] = set()
    for name in sorted(share, key=lambda n: share[n]):
        if name not in beaten:
            beaten |= exclusive[name]
    return beaten


def _share(scores: np.ndarray, count: int) -> float:
    """Share of a group's saliency that lies in its `count` lowest channels; scores below zero are shifted up to it."""
    ordered = np.sort(scores) - min(0.0, float(scores.min()))
    total = float(ordered.sum())
    return float(ordered[:count].sum()) / total if total > 0 else count / len(scores)
