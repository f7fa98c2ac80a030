"""Paths of the charts, in units of their axes: a mark shows a number of the document, and none is worked out here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["bands", "bars", "cuts", "dashes", "dots", "medians", "pairs", "paths_of_bins", "stems", "widths"]

_THIN = 0.004  # of the axis: what is narrower could not be seen


def bars(values: Iterable[tuple[int, float, float]], gap: float = 0.12) -> str:
    """Bars ``(place, from, to)``, one unit wide, between heights of 0 and 1 above the base line.

    >>> bars([(0, 0.0, 0.5)], gap=0.0)
    'M0 1h1v-0.5h-1z'
    """
    width = 1 - gap
    found = []
    for place, low, high in values:
        if high > low:
            height = high - low
            found.append(f"M{_n(place + gap / 2)} {_n(1 - low)}h{_n(width)}v{_n(-height)}h{_n(-width)}z")
    return "".join(found)


def widths(groups: Sequence[Mapping[str, Any]], widest: int) -> dict[str, str]:
    """Channels of each group: what went, what stays, and those that keep all because they must."""
    top, gap = max(widest, 1), 0.16 if len(groups) < 200 else 0.0
    whole = [(n, 0.0, g["size"] / top) for n, g in enumerate(groups) if g["status"] in ("frozen", "protected")]
    others = [(n, g) for n, g in enumerate(groups) if g["status"] not in ("frozen", "protected")]
    return {
        "gone": bars([(n, g["kept"] / top, g["size"] / top) for n, g in others], gap),
        "kept": bars([(n, 0.0, g["kept"] / top) for n, g in others], gap),
        "whole": bars(whole, gap),
    }


def paths_of_bins(found: Mapping[str, Any]) -> dict[str, str]:
    """A histogram: what went, and what stays upon it."""
    top = max(found["most"], 1)
    pairs = list(zip(found["went"], found["stays"], strict=True))
    return {
        "gone": bars([(n, 0.0, went / top) for n, (went, _) in enumerate(pairs)]),
        "kept": bars([(n, went / top, (went + stays) / top) for n, (went, stays) in enumerate(pairs)]),
    }


def bands(along: Sequence[Mapping[str, Any]]) -> str:
    """Of each group where four fifths of its scores lie."""
    return bars([(n, entry["places"][0], max(entry["places"][2], entry["places"][0] + _THIN)) for n, entry in enumerate(along)])


def medians(along: Sequence[Mapping[str, Any]]) -> str:
    return dashes([(n, entry["places"][1]) for n, entry in enumerate(along)], 0.6)


def cuts(along: Sequence[Mapping[str, Any]]) -> str:
    """Of the groups that have one."""
    return dashes([(n, entry["cut_at"]) for n, entry in enumerate(along) if entry["cut_at"] is not None], 0.9)


def pairs(sites: Sequence[Mapping[str, Any]]) -> str:
    """From the error before to that after."""
    return stems([(n, *site["y"]) for n, site in enumerate(sites) if None not in site["y"]])


def dots(sites: Sequence[Mapping[str, Any]], side: int) -> str:
    return dashes([(n, site["y"][side]) for n, site in enumerate(sites) if site["y"][side] is not None])


def stems(values: Iterable[tuple[int, float, float]]) -> str:
    """Upright lines in the middle of their places, from one height to another."""
    return "".join(f"M{_n(place + 0.5)} {_n(1 - a)}V{_n(1 - b)}" for place, a, b in values)


def dashes(values: Iterable[tuple[int, float]], width: float = 0.0) -> str:
    """Level lines in the middle of their places; of no width they are dots, where the pen is round."""
    return "".join(f"M{_n(place + 0.5 - width / 2)} {_n(1 - height)}h{_n(width)}" for place, height in values)


def _n(value: float) -> str:
    """A number as short as four digits allow."""
    return f"{value:.4f}".rstrip("0").rstrip(".") or "0"
