"""Scores of the channels that are left, and of those that went: what a policy of the original model ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from fxprune.analysis.analysis import Analysis, analyze_model
from fxprune.analysis.cut import Cut
from fxprune.analysis.groups import Group
from fxprune.criteria import score_groups
from fxprune.errors import NothingToPrune, TraceError
from fxprune.options import PruneOptions
from fxprune.statistics.branch_effects import branch_effects

__all__ = ["effects_of_slim", "ranked", "scores_of_slim"]

Places = dict[tuple[str, int], list[tuple[int, np.ndarray]]]


def scores_of_slim(
    cut: Cut, slim: Any, criterion: Callable[..., Any], options: PruneOptions, **observed: Any
) -> dict[str, np.ndarray]:
    """Scores of the original's channels from those of a slim model: ``{group id: [channels]}``, NaN where there are none.

    The slim model is analysed as any other is; each of its channels is found in the original by the entries of the tensors that
    it occupies. None are found where a channel is not free any more, as the last one of its group.

    Args:
        cut: what went of the original.
        observed: what `fxprune.criteria.prepare` takes.
    """
    analysis = cut.analysis
    found = {group.id: np.full(group.size, np.nan) for group in analysis.free}
    args, named = analysis.traced.example
    try:
        own = analyze_model(slim, args, named, attention=options.attention, ignore=tuple(options.ignore))
        scores = score_groups(criterion, slim, own, options.normalization, **observed)
    except (TraceError, NothingToPrune):
        return found
    places = _places(analysis)
    for group in own.free:
        for channel, score in enumerate(scores[group.id].tolist()):
            name, number = _found(group, channel, cut, places)
            if name:
                found[name][number] = score
    return found


def effects_of_slim(cut: Cut, slim: Any, options: PruneOptions, data: Iterable[Any], batches: int | None) -> dict[str, float]:
    """What the output of a slim model loses with each branch of the original that is left: measured on the slim model, whose
    branches are those of the original that have the same tensors. Branches that are not found are left out.

    Args:
        data, batches: as `fxprune.statistics.branch_effects` takes them.
    """
    analysis = cut.analysis
    args, named = analysis.traced.example
    try:
        own = analyze_model(slim, args, named, attention=options.attention, ignore=tuple(options.ignore))
        found = branch_effects(slim, own, data, batches)
    except (TraceError, NothingToPrune):
        return {}
    there = {frozenset(own.branches.all[name].tensors): effect for name, effect in found.items()}
    left = {b.id: frozenset(b.tensors) - analysis.lost_tensors for b in analysis.branches.all.values()}
    return {name: there[tensors] for name, tensors in left.items() if tensors and tensors in there}


def _places(analysis: Analysis) -> Places:
    """``{(tensor name, axis): [(number of a free group, [entries])]}``: its channel at each entry of the axis, -1 for none.

    Two groups may share an axis: heads and the channels of a head, or the groups of a convolution and the channels in them.
    """
    places: Places = {}
    for number, group in enumerate(analysis.free):
        for member in group.members:
            table = np.full(analysis.traced.tensors[member.name].shape[member.axis], -1)
            table[member.indices.ravel()] = np.repeat(np.arange(group.size), member.indices.shape[1])
            places.setdefault((member.name, member.axis), []).append((number, table))
    return places


def _found(group: Group, channel: int, cut: Cut, places: Places) -> tuple[str, int]:
    """The original's free group and channel of which a channel of a slim model's group is what is left; no name without any."""
    for member in group.members:
        entries, kept = member.indices[channel], cut.tensors.get(member.name, {}).get(member.axis)
        for number, table in places.get((member.name, member.axis), ()):
            left = table if kept is None else table[kept]
            owners = np.unique(left[entries])
            if len(owners) == 1 and owners[0] >= 0 and int((left == owners[0]).sum()) == len(entries):
                return cut.analysis.free[number].id, int(owners[0])
    return "", -1


def ranked(scores: Mapping[str, np.ndarray], went: Mapping[str, np.ndarray], step: int, gap: float) -> dict[str, np.ndarray]:
    """Scores in which channels that went in steps before this one lie below all others, those that went first lowest.

    >>> ranked({"a": np.array([5.0, 1.0, 3.0])}, {"a": np.array([0, 0, 1])}, 2, 0.1)["a"].tolist()
    [5.0, 1.0, 0.5]

    Args:
        went: of each channel, the number of the step in which it went; 0 while it is there.
        gap: between the lowest and those that went, as a share of the largest score.
    """
    there = [s[(went[name] == 0) | (went[name] >= step)] for name, s in scores.items()]
    left = np.concatenate([*there, []])
    low, scale = (float(left.min()), float(np.abs(left).max())) if len(left) else (0.0, 1.0)
    made = {}
    for name, found in scores.items():
        gone = (went[name] > 0) & (went[name] < step)
        made[name] = np.where(gone, low - gap * (scale or 1.0) * (step - went[name]), found)
    return made
