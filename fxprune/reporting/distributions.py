"""Scores of channels as histograms, with the cut between those that went and those that stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fxprune.planning.plan import GroupPlan, Plan

__all__ = ["cut_of", "distribution_of", "histogram", "of_all"]

_BINS = 24  # of a group
_BINS_OF_ALL = 48
_SKEWED = 20.0  # the 99th percentile over the median, above which a linear axis shows one bar and nothing else


def of_all(plan: Plan, each: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The scores of all channels that were ranked; None if there are none.

    Args:
        each: what `distribution_of` gives of each group.

    ``cut`` is the score at which one ranking of all groups was cut, the highest that went; None where each group has its own: a
    ratio of each layer, budgets, or a policy of the user's.
    """
    ranked = [group for group in plan.groups if group.scores and group.status == "free"]
    if not ranked:
        return None
    scores = np.concatenate([np.asarray(group.scores, np.float64) for group in ranked])
    kept = np.concatenate([_kept(group) for group in ranked])
    found = histogram(scores, kept, _BINS_OF_ALL)
    gone, one = scores[~kept], plan.options.get("scope") == "global" and plan.account is None
    one = one and isinstance(plan.options.get("ratio"), (int, float))
    cut = float(gone.max()) if one and len(gone) else None
    below = 0 if cut is None else int((scores[kept] < cut).sum())
    return found | {
        "channels": len(scores),
        "gone": int((~kept).sum()),
        "cut": cut,
        "cut_at": None if cut is None else _place(cut, found),
        "cut_text": "" if cut is None else f"{cut:.4g}",
        "below": below,
        "gone_text": _sentence(plan, found, cut, below),
        "edges": [f"{edge:.3g}" for edge in _edges(found, _BINS_OF_ALL)],
        "groups": [_along(n, own, found) for n, own in enumerate(each) if own and plan.groups[n].status == "free"],
    }


def _sentence(plan: Plan, found: dict[str, Any], cut: float | None, below: int) -> str:
    """What was ranked, and where it was cut."""
    criterion, scaled = plan.options.get("criterion"), plan.options.get("normalization")
    what = f"Channels by their {criterion} scores" if isinstance(criterion, str) else "Channels by their scores"
    what += f", each group's scaled by its {scaled}" if isinstance(scaled, str) and scaled != "none" else ""
    text = f"{what}: {sum(found['went']):,} went, {sum(found['stays']):,} stay."
    if cut is None:
        return f"{text} Each group has a cut of its own."
    stayed = f"; {below:,} below it stay, in groups that could lose no more" if below else ""
    return f"{text} One ranking of all, cut at {cut:.4g}{stayed}."


def _along(number: int, own: dict[str, Any], axis: dict[str, Any]) -> dict[str, Any]:
    """One group on the axis of all: where a tenth, half and nine tenths of its scores end, and its cut, if it has one."""
    cut = None if own["cut"] is None else _place(own["cut"], axis)
    return {"group": number, "places": [_place(value, axis) for value in own["quantiles"]], "cut_at": cut}


def distribution_of(group: GroupPlan) -> dict[str, Any] | None:
    """One group's scores: histogram, quantiles, and its cut."""
    if not group.scores:
        return None
    scores, kept = np.asarray(group.scores, np.float64), _kept(group)
    found = histogram(scores, kept, _BINS)
    cut = cut_of(scores, kept)
    quantiles = [float(value) for value in np.quantile(scores, (0.1, 0.5, 0.9))]
    return found | {
        "quantiles": quantiles,
        "quantiles_text": [f"{value:.3g}" for value in quantiles],
        "low_text": f"{found['low']:.3g}",
        "high_text": f"{found['high']:.3g}",
        "cut": cut,
        "cut_text": "" if cut is None else f"{cut:.4g}",
        "cut_at": None if cut is None else _place(cut, found),
    }


def cut_of(scores: np.ndarray, kept: np.ndarray) -> float | None:
    """Midway between the highest score that went and the lowest that stays.

    None if nothing went, or where scores alone did not decide: what went then has a higher score than something that stays.

    >>> cut_of(np.array([1.0, 2.0, 4.0]), np.array([False, True, True]))
    1.5
    >>> cut_of(np.array([1.0, 2.0, 4.0]), np.array([True, False, True])) is None
    True
    """
    if kept.all() or not kept.any():
        return None
    gone, stays = float(scores[~kept].max()), float(scores[kept].min())
    return (gone + stays) / 2 if gone <= stays else None


def histogram(scores: np.ndarray, kept: np.ndarray, bins: int) -> dict[str, Any]:
    """How many channels go and stay in each of `bins` bins of equal width, in the score or, where it is skewed, its logarithm.

    >>> found = histogram(np.array([0.0, 1.0, 2.0]), np.array([False, True, True]), 2)
    >>> found["low"], found["high"], found["went"], found["stays"], found["log"]
    (0.0, 2.0, [1, 0], [0, 2], False)
    """
    low, high = float(scores.min()), float(scores.max())
    middle = float(np.median(scores))
    log = low > 0 and float(np.quantile(scores, 0.99)) > _SKEWED * middle
    if high <= low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    values = np.log(scores) if log else scores
    span = (np.log(low), np.log(high)) if log else (low, high)
    went, stays = (np.histogram(values[part], bins, span)[0].tolist() for part in (~kept, kept))
    return {
        "low": low,
        "high": high,
        "log": log,
        "went": went,
        "stays": stays,
        "most": max(map(sum, zip(went, stays, strict=True))),
    }


def _place(value: float, found: dict[str, Any]) -> float:
    """Where a score lies on the axis of a histogram: 0 its low end, 1 its high one."""
    low, high = found["low"], found["high"]
    place = np.log(value / low) / np.log(high / low) if found["log"] else (value - low) / (high - low)
    return round(float(np.clip(place, 0.0, 1.0)), 4)


def _edges(found: dict[str, Any], bins: int) -> list[float]:
    ends = (found["low"], found["high"])
    edges: list[float] = (np.geomspace(*ends, bins + 1) if found["log"] else np.linspace(*ends, bins + 1)).tolist()
    return edges


def _kept(group: GroupPlan) -> np.ndarray:
    kept = np.zeros(group.size, bool)
    kept[group.kept] = True
    return kept
