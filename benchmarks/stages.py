"""The stages of one model's run, written down one by one."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measure import first_line

__all__ = ["Stages"]


class Stages:
    """Runs stages; a failure is recorded with its place and does not stop those that can still run."""

    def __init__(self, events: Path) -> None:
        self.events = events
        self.errors: dict[str, str] = {}

    def __call__(self, name: str, work: Callable[[], Mapping[str, Any]]) -> bool:
        """Run one stage and write what it found; return whether it ran through."""
        self._write({"stage": name})
        start = time.perf_counter()
        try:
            found = dict(work())
        except Exception as error:
            self.errors[name] = first_line(error)
            self._write({"errors": self.errors, f"{name}_where": _where(error)})
            return False
        self._write({**found, f"{name}_seconds": round(time.perf_counter() - start, 2)})
        return True

    def _write(self, fields: Mapping[str, Any]) -> None:
        with self.events.open("a") as file:
            file.write(json.dumps(fields) + "\n")


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno} {f.name}" for f in frames]
    return " < ".join(reversed(places))
