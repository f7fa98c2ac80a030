"""What commands of `fxprune` print: tables and checks for people, one JSON document for machines."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fxprune.planning.branch_plan import lost_groups
from fxprune.planning.report import counted, in_unit
from fxprune.planning.summary import branch_lines
from fxprune.progress import Bar, hushed

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis
    from fxprune.planning.account import Account
    from fxprune.planning.fidelity import Fidelity
    from fxprune.planning.plan import GroupPlan, Plan
    from fxprune.planning.report import Checks

__all__ = [
    "Steps",
    "note",
    "note_fresh_weights",
    "note_replaced",
    "print_json",
    "quiet",
    "show_account",
    "show_cost",
    "show_errors",
    "show_groups",
    "show_plan",
    "show_written",
]

_ROWS = 40  # groups that a table shows; --json lists all

Result = TypeVar("Result")


class Steps:
    """A progress bar on stderr over named steps."""

    def __init__(self, as_json: bool, total: int, shown: bool = True) -> None:
        self._bar = Bar("", total, even=False, shown=shown)
        self._quiet = quiet(as_json)

    def __call__(self, name: str, work: Callable[[], Result]) -> Result:
        self._bar.say(name)
        result = work()
        self._bar.advance()
        return result

    def __enter__(self) -> Steps:
        self._quiet.__enter__()
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.__exit__(kind, error, trace)
        self._quiet.__exit__(kind, error, trace)


def quiet(as_json: bool) -> contextlib.AbstractContextManager[Any]:
    """With --json, stdout holds the document alone: what a model file prints when built goes to stderr."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(_finite(document), indent=1, sort_keys=True))


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: those become null."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_groups(console: Console, name: str, found: Analysis) -> None:
    """The groups of an analysis, one a row, and what may go in all."""
    table = Table(_group_column(), "channels", "status", "tensors", "why", title=f"Groups of {escape(name)}")
    for g in found.groups[:_ROWS]:
        why = g.reason or ("" if g.exact else "statistics change")
        table.add_row(escape(g.id), str(g.size), g.status, str(len(g.members)), escape(why))
    console.print(table)
    _more(console, len(found.groups))
    free = sum(g.size for g in found.free)
    console.print(
        f"{len(found.free)} of {len(found.groups)} groups may be pruned: {free:,} channels; "
        f"{counted([found.macs()], 1, 'MACs')}, {counted([found.params()], 2, ' parameters')}",
        highlight=False,
    )


def show_plan(console: Console, plan: Plan) -> None:
    """Groups that lose channels, one a row; those that keep all of them, counted by reason."""
    pruned = [g for g in plan.groups if len(g.kept) < g.size]
    title = f"Groups of {escape(plan.model)}"
    table = Table(_group_column(), "before", "after", "kept", "removal", title=title)
    for g in pruned[:_ROWS]:
        kind = "exact" if g.exact else "statistics change"
        table.add_row(escape(g.id), str(g.size), str(len(g.kept)), f"{len(g.kept) / g.size:.0%}", kind)
    console.print(table)
    _more(console, len(pruned))
    for line in branch_lines(plan, _ROWS):
        console.print(line.strip(), markup=False, highlight=False, soft_wrap=True)
    lost = lost_groups(plan)
    whole = Counter(_whole(g) for g in plan.groups if len(g.kept) == g.size and g.id not in lost)
    for reason, count in whole.most_common():
        console.print(f"{count} whole: {reason}", markup=False, highlight=False, soft_wrap=True)


def _group_column() -> Column:
    return Column("group", overflow="fold")  # a name cut short cannot be passed to `inspect`


def _whole(group: GroupPlan) -> str:
    return f"{group.status}, {group.reason}" if group.reason else "free, ranked above the cut"


def _more(console: Console, count: int) -> None:
    if count > _ROWS:
        console.print(f"... and {count - _ROWS} more: --json lists all", highlight=False, soft_wrap=True)


def show_cost(
    console: Console,
    macs: tuple[int, int],
    params: tuple[int, int],
    after: str,
    latency: tuple[float, float] | None = None,
) -> None:
    table = Table("", "original", after, "ratio")
    for what, counts, digits in (("MACs", macs, 1), ("parameters", params, 3)):
        shown, letter = in_unit(counts, digits)
        table.add_row(f"{what} ({letter})" if letter else what, *shown, _share(counts))
    if latency is not None:
        table.add_row("latency (ms)", *(f"{seconds * 1e3:,.2f}" for seconds in latency), _share(latency))
    console.print(table)


def show_account(console: Console, account: Account | None) -> None:
    """How budgets were met, if there are any."""
    for text in [] if account is None else [str(account), *account.notes]:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _share(values: tuple[float, float]) -> str:
    before, after = values
    return f"{after / before:.3f}" if before else "-"


def show_errors(console: Console, checks: Checks) -> None:
    if checks.fidelity is not None:
        _show_fidelity(console, checks.fidelity)
    for name, error in (
        ("permutation invariance of the original", checks.permutation_error),
        ("pruned against masked original", checks.masked_error),
    ):
        if error is not None:
            _verdict(console, error <= checks.tolerance, f"{name}, relative error {error:.1e} (limit {checks.tolerance:.0e})")
    if checks.unreferenced:
        count = f"{len(checks.unreferenced)} of {checks.statistics} statistics over channels"
        console.print(f"not checked: the settings of {count}, which have no reference", highlight=False, soft_wrap=True)


def _verdict(console: Console, good: bool, text: str) -> None:
    console.print(f"{'ok' if good else 'FAILED'}: {text}", style=None if good else "bold red", highlight=False, soft_wrap=True)


def _show_fidelity(console: Console, found: Fidelity) -> None:
    text = f"recording against the model itself in {len(found.errors)} calls, relative error {found.error:.1e}"
    _verdict(console, found.passed, f"{text} (limit {found.tolerance:.0e})")
    for name, why in found.refused.items():
        console.print(f"not recorded: {name}: {why}", markup=False, highlight=False, soft_wrap=True)
    for why in found.vacuous:
        console.print(f"tried on random weights, too: {why}", markup=False, highlight=False, soft_wrap=True)


def show_written(console: Console, files: Iterable[Path]) -> None:
    for file in files:
        console.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A sentence on stderr; none with ``--quiet``."""
    if hushed():
        return
    Console(stderr=True).print(f"note: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def note_replaced(files: Iterable[Path]) -> None:
    """Say what is about to be written over."""
    if there := [file for file in files if file.exists()]:
        note(f"replaces {', '.join(map(str, there))}")


def note_fresh_weights(model: str, checkpoint: Path | None, verb: str) -> None:
    """Say so where a library's model has no trained weights: what is seen of it then says little."""
    if checkpoint is None and model.startswith(("timm:", "torchvision:")):
        note(f"the weights are fresh random ones: --checkpoint FILE {verb} trained weights")
