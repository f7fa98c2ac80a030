"""The `fxprune` command: prune, inspect, verify, demo.

Results go to stdout, notes and progress to stderr. An error that fxprune raises on purpose is one sentence on stderr and
exit code 2; a check that fails is exit code 1.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fxprune.errors import InputError, PruneError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fxprune.plans import GroupPlan, Plan
    from fxprune.report import Checks, Report

__all__ = ["app", "main"]

app = typer.Typer(
    help="Remove channels from any timm or torchvision model, and prove that the smaller model is right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_ROWS = 40  # groups that a table shows; --json lists all


class Scope(str, Enum):
    """How channels compete: see `fxprune.prune`."""

    GLOBAL = "global"
    LAYER = "layer"


class Attention(str, Enum):
    """What attention gives up: see `fxprune.prune`."""

    HEAD_DIM = "head_dim"
    HEADS = "heads"
    BOTH = "both"
    NONE = "none"


Model = Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME or file.py:factory", show_default=False)]
Ratio = Annotated[float, typer.Option(help="Fraction in (0, 1) of the prunable channels to remove.")]
Criterion = Annotated[str, typer.Option(help="How channels are ranked: l1, l2, bn_scale, random.")]
ScopeOption = Annotated[Scope, typer.Option(help="One ranking over all groups, or the ratio in each layer.")]
Ignore = Annotated[list[str] | None, typer.Option(help="Name or glob of what stays whole. Repeatable.", show_default=False)]
MaxRatio = Annotated[float, typer.Option(help="No group loses more than this fraction.")]
RoundTo = Annotated[int, typer.Option(help="Kept channels of each group are a multiple of this.")]
AttentionOption = Annotated[Attention, typer.Option(help="What attention gives up.")]
Seed = Annotated[int, typer.Option(help="Of fresh weights and random choices.")]
Checkpoint = Annotated[Path | None, typer.Option(help=".safetensors, or a state_dict of torch.save.", show_default=False)]
InputSize = Annotated[
    list[str] | None,
    typer.Option(help="Shape of one sample, as 3x224x224. Repeat it for several inputs.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.command()
def prune(
    model: Model,
    ratio: Annotated[float | None, typer.Option(help="Fraction of the prunable channels to remove.")] = None,
    scope: ScopeOption = Scope.GLOBAL,
    criterion: Criterion = "l2",
    ignore: Ignore = None,
    max_ratio: MaxRatio = 0.95,
    round_to: RoundTo = 1,
    attention: AttentionOption = Attention.HEAD_DIM,
    seed: Seed = 0,
    checkpoint: Checkpoint = None,
    input_size: InputSize = None,
    out: Annotated[Path | None, typer.Option(help="Folder for slim.py, its weights and plan.json.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Apply this plan.json instead of making one.")] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare with the masked original.")] = True,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Say what would go; write plan.json only.")] = False,
    as_json: Json = False,
) -> None:
    """Prune MODEL and write the smaller model as Python source and safetensors."""
    import fxprune

    if (ratio is None) == (plan is None):
        raise InputError("give either --ratio, to make a plan, or --plan FILE, to apply one")
    if plan is not None and plan_only:
        raise InputError("--plan-only makes a plan; it cannot be combined with --plan FILE")
    options: dict[str, Any] = {
        "criterion": criterion,
        "scope": scope.value,
        "ignore": tuple(ignore or ()),
        "max_ratio": max_ratio,
        "round_to": round_to,
        "attention": attention.value,
        "seed": seed,
    }
    written: list[Path] = []
    report: Report | None = None
    with _Steps(as_json, "build the model", "plan" if plan_only else "prune", "write") as step:
        net = step(lambda: _build(model, checkpoint, seed))
        inputs = _inputs(net, input_size)
        if plan_only:
            made = step(lambda: fxprune.plan(net, ratio, inputs, **options))
        else:
            if plan is not None:
                given = fxprune.Plan.from_json(_read(plan))
                slim = step(lambda: fxprune.apply(net, given, verify=verify))
            else:
                slim = step(lambda: fxprune.prune(net, ratio, inputs, verify=verify, **options))
            report = slim.meta["fxprune"]
            made = report.plan
        if out is not None:
            if not plan_only:
                source = step(lambda: fxprune.save(slim, out / "slim.py"))
                written += [source, source.with_suffix(".safetensors")]
            written.append(_write(out / "plan.json", made.to_json()))
    if as_json:
        document = _plan_document(made) if report is None else report.to_dict()
        _print_json({**document, "written": [str(path) for path in written]})
        return
    console = Console()
    _show_groups(console, made)
    _show_cost(console, made)
    if report is not None and report.checks is not None:
        _show_masked(console, report.checks)
    console.print(*(f"wrote {escape(str(path))}" for path in written), sep="\n", highlight=False, soft_wrap=True)
    if out is None:
        _note("nothing was written: --out DIR writes the result")


@app.command()
def inspect(
    model: Model,
    layer: Annotated[str | None, typer.Argument(help="Module or parameter to explain.", show_default=False)] = None,
    ignore: Ignore = None,
    attention: AttentionOption = Attention.HEAD_DIM,
    checkpoint: Checkpoint = None,
    input_size: InputSize = None,
    as_json: Json = False,
) -> None:
    """List the groups of coupled channels of MODEL, or say why LAYER is free, protected or frozen."""
    import fxprune
    from fxprune.why import explain

    with _Steps(as_json, "build the model", "analyze") as step:
        net = step(lambda: _build(model, checkpoint, 0))
        inputs = _inputs(net, input_size)
        if layer is not None and not ignore and attention is Attention.HEAD_DIM:
            answer = step(lambda: fxprune.why(net, layer, inputs))
        else:
            found = step(lambda: fxprune.analyze(net, inputs, ignore=tuple(ignore or ()), attention=attention.value))
    if layer is not None:
        _print_json(asdict(answer)) if as_json else typer.echo(str(answer))
        return
    del explain
    groups = [
        {
            "id": g.id,
            "size": g.size,
            "status": g.status,
            "reason": g.reason,
            "exact": g.exact,
            "members": [{"name": m.name, "axis": m.axis, "role": m.role} for m in g.members],
        }
        for g in found.groups
    ]
    if as_json:
        _print_json({"model": found.model_name, "macs": found.macs(), "params": found.params(), "groups": groups})
        return
    _show_analysis(Console(), found)
