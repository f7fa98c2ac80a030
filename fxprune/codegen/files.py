"""Writing text files."""

from __future__ import annotations

from pathlib import Path

from fxprune.codegen.replacing import replace

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> Path:
    """Write a file, and its folders; gives the path. A file that is there stays until the new one is whole.

    Raises:
        PruneError: it cannot be written.
    """
    replace([path], [lambda part: part.write_text(text, encoding="utf-8", newline="\n")])
    return path
