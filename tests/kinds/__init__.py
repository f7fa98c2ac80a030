"""Small networks written as users write them, by kind of what a recorder may get wrong; `tests/test_fidelity.py` runs all.

A new kind is one module here with a list `CASES`; a new member of a kind is one line in that list.
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.kinds.base import Case

__all__ = ["ALL", "Case"]

ALL: list[tuple[str, Case]] = [
    (info.name, case)
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda i: i.name)
    if info.name != "base"
    for case in importlib.import_module(f"{__name__}.{info.name}").CASES
]
