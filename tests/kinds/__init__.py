"""Small networks written as users write them, by kind of what a recorder may get wrong; `tests/test_fidelity.py` runs all.

A new kind is one module here with a list `CASES`; a new member of a kind is one line in that list.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest

from tests.kinds.base import Case

__all__ = ["ALL", "Case", "sampled"]

ALL: list[tuple[str, Case]] = [
    (info.name, case)
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda i: i.name)
    if info.name != "base"
    for case in importlib.import_module(f"{__name__}.{info.name}").CASES
]


def sampled(params: list[Any], every: int = 3) -> list[Any]:
    """One parameter in `every` as it is, the others marked slow: what is long for each of them runs with ``-m slow``."""
    return [p if i % every == 0 else pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for i, p in enumerate(params)]
