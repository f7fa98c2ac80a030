"""Curves of sensitivity as a table for people."""

from __future__ import annotations

import io

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fxprune.studies.curves import Curve, Sensitivity

__all__ = ["show", "text_of"]

_WIDTH = 110
_ROWS = 60


def show(found: Sensitivity, console: Console) -> None:
    """Print the curves, those of the groups that suffer least first."""
    ratios: list[float] = found.options["ratios"]
    after = any(p.repaired is not None for c in found.curves for p in c.points)
    what = "value, and value after a repair" if after else "value"
    title = f"{found.model}: {what} by share of a group that goes; {found.dense:.4g} whole, {found.options['better']} is better"
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("group", overflow="fold")
    table.add_column("channels", justify="right")
    for ratio in ratios:
        table.add_column(f"{ratio:.0%}", justify="right")
    ordered = sorted(found.curves, key=lambda c: (_mean_loss(found, c), c.group))
    for curve in ordered[:_ROWS]:
        table.add_row(escape(curve.group), str(curve.size), *(_cell(curve, ratio) for ratio in ratios))
    console.print(table)
    if len(ordered) > _ROWS:
        console.print(f"... and {len(ordered) - _ROWS} groups more: the JSON document lists all", highlight=False)
    for name, why in list(found.skipped.items())[:_ROWS]:
        console.print(f"not measured: {name}: {why}", markup=False, highlight=False)


def text_of(found: Sensitivity) -> str:
    """The same as plain text."""
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, force_terminal=False)
    show(found, console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _mean_loss(found: Sensitivity, curve: Curve) -> float:
    losses = [found.loss(p) for p in curve.points]
    return sum(losses) / len(losses)


def _cell(curve: Curve, ratio: float) -> str:
    """The point nearest to a ratio, if there is one within half a channel or so."""
    point = min(curve.points, key=lambda p: abs(p.removed / curve.size - ratio))
    if abs(point.removed / curve.size - ratio) > max(0.05, 1 / curve.size):
        return "-"
    return f"{point.value:.4g}" + ("" if point.repaired is None else f" / {point.repaired:.4g}")
