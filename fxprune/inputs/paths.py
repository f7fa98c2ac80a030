"""Paths that users name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fxprune.errors import InputError, shown

__all__ = ["folder_of"]


def folder_of(argument: str, given: Any) -> Path | None:
    """The folder that an argument names, which need not be there yet; None if none is given.

    >>> folder_of("out", None)

    Raises:
        InputError: it names no folder.
    """
    if given is None:
        return None
    try:
        text = os.fspath(given)
    except TypeError:
        text = None
    if not isinstance(text, str) or "\0" in text or not text:
        raise InputError(f"{argument} must be text or a pathlib.Path that names a folder, not {shown(given)}")
    folder = Path(text)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{argument} must be a folder, and {text!r} is a file")
    return folder
