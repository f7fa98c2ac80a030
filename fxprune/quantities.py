"""Numbers as users give them: of any library, one for each pattern, or with a unit, as ``"200 MB"``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from fxprune.errors import InputError, nearest, shown

__all__ = ["UNITS", "each_of", "quantity", "real", "whole"]

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


def each_of(name: str, given: Any, kind: Callable[[Any], Any], most: float, what: str) -> Any:
    """A number above 0, or one for each pattern.

    Raises:
        InputError: it is none.
    """
    several = dict(given) if isinstance(given, Mapping) else {"": given}
    found = {pattern: kind(value) for pattern, value in several.items()}
    right = all(number is not None and 0 < number <= most for number in found.values())
    if not found or not right or not all(isinstance(pattern, str) for pattern in found):
        raise InputError(f"{name} must be {what}, or one for each pattern, as {{'layer3.*': ...}}, not {shown(given)}")
    return found if isinstance(given, Mapping) else found[""]


def real(value: Any) -> float | None:
    """A number of Python, NumPy or another library as Python's own; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)
    except (OverflowError, ValueError, TypeError):  # of a fraction of huge numbers
        return None


def whole(value: Any) -> int | None:
    """A whole number of Python, NumPy or another library as Python's own; None if it is none."""
    return None if isinstance(value, bool) or not isinstance(value, Integral) else int(value)
