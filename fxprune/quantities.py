"""Amounts that users write with a unit: ``"200 MB"``."""

from __future__ import annotations

import math
import re

from fxprune.errors import InputError, nearest, shown

__all__ = ["UNITS", "quantity"]

# Of each budget that has units: what one of each is in the smallest.
UNITS: dict[str, dict[str, float]] = {
    "memory": {
        **{"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9},
        **{"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    },
    "latency": {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9},
}


def quantity(name: str, text: str) -> float:
    """The number that a text stands for, in the smallest unit of what is named.

    >>> quantity("memory", "200 MB"), quantity("memory", "1.5GiB")
    (200000000.0, 1610612736.0)
    >>> quantity("latency", "4 ms")
    4000000.0

    A text without a unit is the number itself: ``"0.5"`` is a fraction.

    Raises:
        InputError: it is no number, or has no unit of these.
    """
    units = UNITS.get(name, {})
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    try:
        number = float(found[1]) if found else math.nan
    except ValueError:
        number = math.nan
    unit = found[2] if found else ""
    if not math.isfinite(number) or (unit and unit not in units):
        known = f" with one of the units {', '.join(units)}" if units else " without a unit"
        raise InputError(f"{name} must be a number{known}, not {shown(text)}{nearest(unit, units) if unit else ''}")
    return number * units.get(unit, 1.0)
