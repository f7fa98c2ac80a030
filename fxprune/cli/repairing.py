"""``--repair N`` of ``fxprune prune``: what it asks for, and what it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fxprune.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from fxprune.inputs.data import DataSpec
    from fxprune.planning.repaired import Repaired

__all__ = ["check_repair", "repaired", "show_repair"]

_ROWS = 40  # layers that the table shows; --json lists all


def check_repair(count: int | None, data: str | None, others: list[str] | bool | None, checkpoint: Path | None) -> None:
    """
    Args:
        checkpoint: of the repair.
        others: what cannot be asked for together with a repair, as it was given.

    Raises:
        InputError: there are no images, or there will be no model, or one of submodules alone.
    """
    if count is None:
        if checkpoint is not None:
            raise InputError("--repair-checkpoint FILE is for a repair: ask for one with --repair N")
        return
    if data is None:
        raise InputError("--repair N reads N images: say which with --data")
    if others:
        raise InputError("--repair needs a pruned model that is one graph: leave out --submodule and --plan-only")


def repaired(net: nn.Module, slim: Any, images: DataSpec, checkpoint: Path | None) -> Any:
    """The slim model, repaired."""
    from fxprune.recovery.repair.verb import repair

    return repair(slim, net, images.loader(net), checkpoint=checkpoint)


def show_repair(console: Console, found: Repaired | None) -> None:
    """What was repaired and how well, a layer a row."""
    if found is None:
        return
    table = Table("layer or norm", "error before", "after", "", title="Repair, on images that were held back")
    for site in found.sites[:_ROWS]:
        errors = ("-", "-") if site.before is None else (f"{site.before:.4f}", f"{site.after:.4f}")
        table.add_row(escape(site.name), *errors, escape(site.kept and f"as it was: {site.kept}"))
    console.print(table)
    if len(found.sites) > _ROWS:
        console.print(f"... and {len(found.sites) - _ROWS} more: --json lists all", highlight=False)
    for name, why in list(found.left.items())[:_ROWS]:
        console.print(f"not considered: {name} ({why})", markup=False, highlight=False, soft_wrap=True)
    console.print(str(found), markup=False, highlight=False, soft_wrap=True)
