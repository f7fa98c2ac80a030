"""A ratio of the channels: of each group, of all groups in one ranking, or by the names of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.planning.policies.base import Policy, Scores, share_of
from fxprune.planning.policies.patterns import check_patterns, number_for

__all__ = ["ByName", "GlobalRatio", "IsomorphicRatio", "LayerRatio", "beaten_by"]


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
        return {g.id: share_of(g.size, self._ratio) for g in groups}

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
class IsomorphicRatio(GlobalRatio):
    """One ranking among the groups of each kind (`Group.kind`: made and read by the same kinds of layers), each kind giving up
    the ratio.

    Scores of channels that do different work do not compare: "Isomorphic Pruning for Vision Models" (Fang et al., ECCV 2024)
    ranks isomorphic sub-structures alone, and takes the same share of each.
    """

    def counts(self, groups: Sequence[Group], scores: Scores, wanted: Mapping[str, int]) -> Mapping[str, int]:
        kinds: dict[object, list[Group]] = {}
        for group in groups:
            kinds.setdefault(group.kind, []).append(group)
        found: dict[str, int] = {}
        for alike in kinds.values():
            found |= super().counts(alike, scores, wanted)
        return found


@dataclass(frozen=True)
class ByName(LayerRatio):
    """A ratio for each pattern of tensor or module names: a group takes that of the first pattern that matches one of its
    producers, and stays whole if none does."""

    def wanted(self, groups: Sequence[Group]) -> dict[str, int]:
        assert isinstance(self.options.ratio, Mapping)
        check_patterns(groups, "ratio", self.options.ratio)
        ratios = {g.id: number_for(g, self.options.ratio, 0.0) for g in groups}
        return {g.id: share_of(g.size, ratios[g.id]) for g in groups}


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
