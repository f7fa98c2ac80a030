"""From scores to the channels that go: by group, or by one ranking over all groups."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Set
from typing import Literal

import numpy as np

from fxprune.analysis.groups import Group
from fxprune.errors import InputError, nearest

__all__ = ["Ratio", "Scope", "select"]

Scope = Literal["global", "layer"]
Ratio = float | Mapping[str, float]


def select(
    groups: list[Group],
    scores: Mapping[str, np.ndarray],
    ratio: Ratio,
    scope: Scope,
    max_ratio: float,
    round_to: int,
    exclusive: Mapping[str, Set[str]] | None = None,
) -> dict[str, np.ndarray]:
    """Channels that go: ``{group id: sorted channel numbers}``, for groups that lose any.

    A mapping of patterns (of tensor or module names) to ratios is layer-wise: a group takes the ratio of the first
    pattern that matches one of its producers, and stays whole if none does. Of groups that exclude each other
    (`exclusive`: id -> ids), those go for which the same ratio costs the smaller share of their saliency.
    """
    if isinstance(ratio, Mapping):
        wanted = {g.id: n for g, n in zip(groups, _by_pattern(groups, ratio), strict=True)}
    else:
        wanted = {g.id: g.size - _keep(g.size, ratio) for g in groups}
    if exclusive:
        beaten = _beaten(groups, scores, wanted, exclusive)
        groups = [g for g in groups if g.id not in beaten]
    if scope == "global" and not isinstance(ratio, Mapping):
        wanted = _global(groups, scores, ratio, max_ratio)
    gone: dict[str, np.ndarray] = {}
    for group in groups:
        count = _rounded(group, min(wanted[group.id], most(group, max_ratio)), round_to)
        if count:
            order = np.argsort(scores[group.id], kind="stable")
            gone[group.id] = np.sort(order[:count])
    return gone


def most(group: Group, max_ratio: float) -> int:
    """The most channels that a group may lose: never all."""
    return group.size - max(1, math.ceil(group.size * (1 - max_ratio) - 1e-9))


def _keep(size: int, ratio: float) -> int:
    """``int(size * (1 - ratio))``, at least one: the convention of the pruning literature."""
    return max(1, math.floor(size * (1 - ratio) + 1e-9))


def _global(groups: list[Group], scores: Mapping[str, np.ndarray], ratio: float, max_ratio: float) -> dict[str, int]:
    """One ranking: the lowest scores go, each group down to what `max_ratio` leaves it."""
    total = sum(g.size for g in groups)
    candidates = [np.sort(scores[g.id], kind="stable")[: most(g, max_ratio)] for g in groups]
    owner = np.concatenate([np.full(len(c), i) for i, c in enumerate(candidates)])
    order = np.argsort(np.concatenate(candidates), kind="stable")[: round(total * ratio)]
    counts = np.bincount(owner[order], minlength=len(groups))
    return {g.id: int(n) for g, n in zip(groups, counts, strict=True)}


def _beaten(
    groups: list[Group], scores: Mapping[str, np.ndarray], wanted: Mapping[str, int], exclusive: Mapping[str, Set[str]]
) -> set[str]:
    """Groups that stay whole, because one that excludes them is cheaper."""
    share = {g.id: _share(scores[g.id], wanted[g.id]) for g in groups if g.id in exclusive and wanted[g.id]}
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


def _rounded(group: Group, count: int, round_to: int) -> int:
    """Fewer or more channels to remove, so that what is kept is a multiple; nearest, and never none."""
    step = round_to // math.gcd(round_to, group.multiplicity)
    if step <= 1 or not count:
        return count
    kept = group.size - count
    kept = max(step, round(kept / step) * step)
    return max(group.size - kept, 0)


def _by_pattern(groups: list[Group], ratios: Mapping[str, float]) -> list[int]:
    used: set[str] = set()
    result = []
    for group in groups:
        names = [m.name for m in group.members if m.role == "producer"] or [m.name for m in group.members]
        found = next((p for p in ratios if any(_matches(n, p) for n in names)), None)
        if found is not None:
            used.add(found)
        result.append(0 if found is None or not ratios[found] else group.size - _keep(group.size, ratios[found]))
    for pattern in ratios:
        if pattern not in used:
            known = [m.name.rpartition(".")[0] for g in groups for m in g.members]
            raise InputError(f"ratio pattern {pattern!r} matches no group that may be pruned{nearest(pattern, known)}")
    return result


def _matches(name: str, pattern: str) -> bool:
    module = name.rpartition(".")[0]
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(module, pattern)
