"""What is told while a run goes on: lines of JSON in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fxprune.errors import PruneError
from fxprune.recovery.finetune.files import replaced

__all__ = ["Journal"]


class Journal:
    """One JSON document a line: ``{"event": ..., "step": ..., ...}``.

    Args:
        path: None keeps no journal.
        step: where the run goes on. Lines that a killed run wrote after its last checkpoint go: those steps are done again.
    """

    def __init__(self, path: Path | None, step: int = 0) -> None:
        self.path = path
        if path is None:
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if step and path.is_file() else []
        kept = [line + "\n" for line in lines if _step_of(line) <= step]
        replaced(path, lambda where: where.write_text("".join(kept), encoding="utf-8"))

    def __call__(self, event: str, step: int, **what: Any) -> None:
        if self.path is None:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"event": event, "step": step, **what}) + "\n")
        except OSError as error:
            raise PruneError(f"cannot write {self.path}: {error}") from error


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # half a line, of the moment of the kill
        return float("inf")
