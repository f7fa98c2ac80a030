"""Lets ``fxprune.passes`` be imported from a checkout, where the passes lie beside the package.

The wheel places the top-level folder ``passes/`` inside ``fxprune``. In a checkout it stays beside it, and a
local ``fxprune/`` that shadows an installed one has no ``passes`` below it. `install` then puts a finder for that one
name before all others, so that the passes beside the imported ``fxprune/`` are used even where another checkout is
installed::

    checkout/pyproject.toml
    checkout/fxprune/_layout.py   -> import fxprune.passes
    checkout/passes/__init__.py   <- is what is imported
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

__all__ = ["SiblingFinder", "install"]

_NAME = "fxprune.passes"


class SiblingFinder(MetaPathFinder):
    """Finds ``fxprune.passes`` in `folder`; every other name, submodules included, is left to Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _NAME:
            return None
        return importlib.util.spec_from_file_location(
            fullname, self.folder / "__init__.py", submodule_search_locations=[str(self.folder)]
        )


def install(package: Path = Path(__file__).parent) -> bool:
    """Add a `SiblingFinder` if `package` is the source folder of a checkout; return whether it was added.

    A wheel has ``passes`` inside the package and needs no finder. A ``pyproject.toml`` must lie beside the folder: a
    stranger's ``passes`` in site-packages is never taken for ours.
    """
    sibling = package.parent / "passes"
    if (package / "passes").exists() or not (sibling / "__init__.py").is_file():
        return False
    if not (package.parent / "pyproject.toml").is_file():
        return False
    sys.meta_path.insert(0, SiblingFinder(sibling))  # an editable install of another checkout has a finder, too
    return True


install()
