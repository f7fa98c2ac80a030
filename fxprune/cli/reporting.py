"""``--report FILE`` of commands: checked before the work begins, written after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fxprune.cli.output import note_replaced

__all__ = ["check_report", "not_kept", "write_report"]


def check_report(file: Path | None) -> None:
    """
    Raises:
        InputError: it is no HTML file.
        PruneError: what writes it is not installed.
    """
    if file is not None:
        from fxprune.reporting.verb import checked_file, require

        checked_file(file)
        require()


def not_kept(written: list[Path]) -> str:
    """What to say where no folder was named for the model, and these files were written, if any."""
    return (
        "nothing of the model was written: --out DIR keeps it" if written else "nothing was written: --out DIR keeps the result"
    )


def write_report(what: Any, file: Path) -> Path:
    """The report of a slim model or a plan."""
    from fxprune.reporting.verb import report

    note_replaced([file])
    return report(what, file)
