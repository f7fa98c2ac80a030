"""What the files have in common from which measurements that were killed go on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fxprune.errors import InputError, shown

__all__ = ["checkpoint_path", "same_figure"]

_SAME = 1e-3  # relative: what evaluate may differ by when it is asked about the whole model again


def checkpoint_path(path: Any) -> Path | None:
    """
    Raises:
        InputError: the path is none of a file.
    """
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"checkpoint must be the path of a file, not {shown(path)}")
    found = Path(path)
    if found.is_dir():
        raise InputError(f"checkpoint must be the path of a file, and {str(path)!r} is a folder")
    return found


def same_figure(now: float, stored: float, name: str) -> None:
    """
    Args:
        now, stored: what evaluate gives for the whole model, and gave.

    Raises:
        InputError: these are two measures.
    """
    if abs(stored - now) > _SAME * max(abs(stored), abs(now)):
        raise InputError(f"evaluate gives {now:g} for the whole model, where {name} has {stored:g}: that is another measure")
