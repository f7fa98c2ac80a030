"""Files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from fxprune.errors import PruneError

__all__ = ["replaced"]


def replaced(path: Path, put: Callable[[Path], object]) -> None:
    """Write a file beside its place and rename it: what is there stays until the new one is on the disk.

    Raises:
        PruneError: the disk refuses.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(part)
        with open(part, "r+b") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise PruneError(f"cannot write {path}: {error}") from error
        raise
