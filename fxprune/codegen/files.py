"""Writing text files."""

from __future__ import annotations

from pathlib import Path

from fxprune.errors import PruneError

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> Path:
    """Write a file, and its folders; gives the path.

    Raises:
        PruneError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise PruneError(f"cannot write {path}: {error}") from error
    return path
