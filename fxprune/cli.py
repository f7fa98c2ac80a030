"""The `fxprune` command: prune, inspect, verify, study, demo.

Results go to stdout, notes and progress to stderr. An error that fxprune raises on purpose is one sentence on
stderr and exit code 2; a check that fails is exit code 1.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from fxprune.errors import InputError, PruneError
from fxprune.many_values import ManyValues

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fxprune.plans import GroupPlan, Plan
    from fxprune.report import Checks

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


class Unit(str, Enum):
    """What a study ranks: see `fxprune.study`."""

    GROUP = "group"
    LAYER = "layer"


Model = Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME or file.py:factory", show_default=False)]
Ratio = Annotated[
    float | None,
    typer.Option(help="Fraction in (0, 1) of the prunable channels to remove.", show_default=False),
]
Criterion = Annotated[
    str, typer.Option(help="How channels are ranked: l2, l1, bn_scale, random, ... (an unknown name lists all).")
]
ScopeOption = Annotated[Scope, typer.Option(help="One ranking over all groups, or the ratio in every group.")]
Ignore = Annotated[
    list[str] | None,
    typer.Option(help="Name or glob of layers that stay whole. Repeatable.", show_default=False),
]
MaxRatio = Annotated[float, typer.Option(help="No group loses more than this fraction.")]
RoundTo = Annotated[int, typer.Option(help="Kept channels of each group are a multiple of this.")]
AttentionOption = Annotated[Attention, typer.Option(help="What attention gives up.")]
Seed = Annotated[int, typer.Option(help="Of fresh weights and of random choices.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Weights: .safetensors, or a state_dict of torch.save.", show_default=False),
]
Weights = Annotated[
    Path | None,
    typer.Option("--checkpoint", "--weights", help="Weights: .safetensors, or a state_dict of torch.save.", show_default=False),
]
InputSize = Annotated[
    list[str] | None,
    typer.Option(help="Shape of one sample, as 3x224x224. Repeat it for several inputs.", show_default=False),
]
Submodule = Annotated[
    list[str] | None,
    typer.Option(
        help="Name or glob of a part to prune, of a model that cannot be traced whole. Repeatable.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.command()
def prune(
    model: Model,
    ratio: Ratio = None,
    scope: ScopeOption = Scope.GLOBAL,
    criterion: Criterion = "l2",
    ignore: Ignore = None,
    max_ratio: MaxRatio = 0.95,
    round_to: RoundTo = 1,
    attention: AttentionOption = Attention.HEAD_DIM,
    seed: Seed = 0,
    checkpoint: Checkpoint = None,
    input_size: InputSize = None,
    submodule: Submodule = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for slim.py, slim.safetensors and plan.json.", show_default=False),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Apply this plan.json instead of making a plan.", show_default=False)
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare the result with the masked original.")] = True,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Say what would go, without doing it.")] = False,
    as_json: Json = False,
) -> None:
    """Prune MODEL, and write the smaller model as Python source and safetensors."""
    from fxprune import Plan, api, codegen

    if plan is None and ratio is None:
        raise InputError("give --ratio, to make a plan, or --plan FILE, to apply one")
    if plan is not None and (ratio is not None or plan_only or submodule):
        raise InputError("--plan FILE applies a plan that was made before: leave out --ratio, --plan-only and --submodule")
    options: dict[str, Any] = {
        "criterion": criterion,
        "scope": scope.value,
        "ignore": tuple(ignore or ()),
        "max_ratio": max_ratio,
        "round_to": round_to,
        "attention": attention.value,
        "seed": seed,
        "submodules": tuple(submodule or ()),
    }
    report, written = None, []
    with _Steps(as_json, total=2 + (out is not None)) as step:
        given = None if plan is None else Plan.from_json(_read(plan))
        net = step("building the model", lambda: _build(model, checkpoint, seed))
        inputs = _inputs(net, input_size)
        if plan_only:
            made = step("planning", lambda: api.plan(net, ratio, inputs, **options))  # type: ignore[arg-type]
        else:
            if given is not None:
                slim = step("applying the plan", lambda: api.apply(net, given, verify=verify))
            else:
                slim = step("pruning", lambda: api.prune(net, ratio, inputs, verify=verify, **options))  # type: ignore[arg-type]
            report = slim.meta["fxprune"]
            made = report.plan
        if out is not None:
            if report is not None:
                names = [e["name"] for e in made.options.get("submodules", ())]
                files = {n: out / f"{n.replace('.', '/')}.py" for n in names} or {"": out / "slim.py"}
                found: dict[str, Any] = dict(slim.named_modules())
                sources = step("writing", lambda: [codegen.save(found[name], file) for name, file in files.items()])
                written += [file for source in sources for file in (source, source.with_suffix(".safetensors"))]
            written.append(_write(out / "plan.json", made.to_json()))
    if as_json:
        document = _plan_document(made) if report is None else report.to_dict()
        _print_json({**document, "written": [str(path) for path in written]})
        return
    console = Console()
    _show_plan(console, made)
    _show_cost(console, made.macs, made.params, "planned" if report is None else "pruned")
    if report is not None and report.checks is not None:
        _show_errors(console, report.checks)
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    if checkpoint is None and not model.endswith(".py") and model.startswith(("timm:", "torchvision:")):
        _note("the weights are fresh random ones: --checkpoint FILE prunes trained weights")
    if out is None:
        _note("nothing was written: --out DIR keeps the result")


@app.command()
def inspect(
    model: Model,
    layer: Annotated[str | None, typer.Argument(help="Module or parameter to explain.", show_default=False)] = None,
    input_size: InputSize = None,
    submodule: Submodule = None,
    as_json: Json = False,
) -> None:
    """List the groups of coupled channels of MODEL; with LAYER, say whether and why it may be pruned."""
    from fxprune import api

    with _Steps(as_json, total=2) as step:
        net = step("building the model", lambda: _build(model, None, 0))
        inputs = _inputs(net, input_size)
        if layer is not None:
            answer = step("analyzing", lambda: api.why(net, layer, inputs, submodules=submodule or ()))
        else:
            found = step("analyzing", lambda: api.analyze(net, inputs, submodules=submodule or ()))
    if layer is not None:
        _print_json(asdict(answer)) if as_json else typer.echo(str(answer))
        return
    if as_json:
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
        _print_json({"model": found.model_name, "macs": found.macs(), "params": found.params(), "groups": groups})
        return
    table = Table(_group_column(), "channels", "status", "tensors", "why", title=f"Groups of {escape(model)}")
    for g in found.groups[:_ROWS]:
        why = g.reason or ("" if g.exact else "statistics change")
        table.add_row(escape(g.id), str(g.size), g.status, str(len(g.members)), escape(why))
    console = Console()
    console.print(table)
    _more(console, len(found.groups))
    free = sum(g.size for g in found.free)
    console.print(
        f"{len(found.free)} of {len(found.groups)} groups may be pruned: {free:,} channels; "
        f"{found.macs() / 1e6:,.1f} MMACs, {found.params() / 1e6:,.2f} M parameters",
        highlight=False,
    )


@app.command()
def verify(
    model: Model,
    ratio: Annotated[float, typer.Option(help="Fraction in (0, 1) of the prunable channels to remove.")] = 0.5,
    scope: ScopeOption = Scope.GLOBAL,
    criterion: Criterion = "l2",
    ignore: Ignore = None,
    max_ratio: MaxRatio = 0.95,
    round_to: RoundTo = 1,
    attention: AttentionOption = Attention.HEAD_DIM,
    seed: Seed = 0,
    checkpoint: Checkpoint = None,
    input_size: InputSize = None,
    submodule: Submodule = None,
    as_json: Json = False,
) -> None:
    """Prune MODEL with every parameter randomised, prove the result against the original, measure both."""
    from fxprune import api
    from fxprune.checks import randomize

    with _Steps(as_json, total=3) as step:
        net = step("building the model", lambda: _build(model, checkpoint, seed))
        inputs = _inputs(net, input_size)
        net = randomize(net, seed)
        slim = step(
            "pruning",
            lambda: api.prune(
                net,
                ratio,
                inputs,
                criterion=criterion,
                scope=scope.value,
                ignore=tuple(ignore or ()),
                max_ratio=max_ratio,
                round_to=round_to,
                attention=attention.value,
                verify=False,
                seed=seed,
                submodules=submodule or (),
            ),
        )
        checks = step("verifying", lambda: api.verify(net, slim, None if submodule else inputs, seed=seed))
    if as_json:
        _print_json({"model": slim.meta["fxprune"].model, "ratio": ratio, **checks.to_dict()})
    else:
        console = Console()
        _show_cost(console, checks.macs, checks.params, "pruned", checks.latency)
        _show_errors(console, checks)
    if not checks.passed:
        raise typer.Exit(1)


@app.command(cls=ManyValues)
def study(
    model: Model,
    criteria: Annotated[
        list[str] | None, typer.Option(help="Criteria to compare: several names.", show_default="l1 l2 fpgm fermat")
    ] = None,
    ratios: Annotated[
        list[float] | None, typer.Option(help="Of channels that go: several.", show_default="0.1 0.3 0.5 0.7")
    ] = None,
    unit: Annotated[Unit, typer.Option(help="Rank groups of coupled channels, or the filters of each layer.")] = Unit.GROUP,
    data: Annotated[
        Path | None,
        typer.Option(help=".npz file: 'inputs' as the model takes them, 'labels' if any.", show_default=False),
    ] = None,
    batches: Annotated[int | None, typer.Option(min=1, help="Use so many batches of 64 at most.", show_default=False)] = None,
    noise: Annotated[float, typer.Option(help="Relative error of the weights that scores should survive.")] = 0.01,
    ignore: Ignore = None,
    attention: AttentionOption = Attention.HEAD_DIM,
    seed: Seed = 0,
    checkpoint: Weights = None,
    input_size: InputSize = None,
    out: Annotated[Path | None, typer.Option(help="Folder for study.json, study.txt and pictures.", show_default=False)] = None,
    plots: Annotated[bool, typer.Option(help="Draw pictures into the folder.")] = True,
    as_json: Json = False,
) -> None:
    """Say how alike criteria rank the channels of MODEL, and how well each can tell them apart."""
    from fxprune.studies import command, text

    with _Steps(as_json, total=2 + (out is not None) * (plots + (data is not None))) as step:
        net = step("building the model", lambda: _build(model, checkpoint, seed))
        found, written = command.run(
            net,
            _inputs(net, input_size),
            criteria or ["l1", "l2", "fpgm", "fermat"],
            data,
            out,
            plots,
            step,
            ratios=ratios or (0.1, 0.3, 0.5, 0.7),
            unit=unit.value,
            batches=batches,
            noise=noise,
            ignore=tuple(ignore or ()),
            attention=attention.value,
            seed=seed,
        )
    if as_json:
        _print_json({**found.to_dict(), "written": [str(path) for path in written]})
        return
    console = Console()
    text.show(found, console)
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    if checkpoint is None and model.startswith(("timm:", "torchvision:")):
        _note("the weights are fresh random ones: --checkpoint FILE studies trained weights")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for slim.py, slim.safetensors and plan.json.")] = Path("fxprune-demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the training images for the dense model.")] = 16,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a small residual CNN on real images, prune it to half of its MACs or less, fine-tune, compare."""
    from fxprune.demo import run

    with _quiet(as_json):
        result = run(out, json=as_json, epochs=epochs, seed=seed)
    if as_json:
        _print_json(result)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with its code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="fxprune")
    except PruneError as error:
        sentence = " ".join(str(error).split())
        Console(stderr=True).print(f"error: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


# -- input ---------------------------------------------------------------------------------------------------


def _build(spec: str, checkpoint: Path | None, seed: int) -> nn.Module:
    import torch

    from fxprune.zoo import load_model

    torch.manual_seed(seed)
    # A slim model is saved in the mode of its original: whoever loads the file expects evaluation.
    return load_model(spec, checkpoint).eval()


def _inputs(model: nn.Module, sizes: Iterable[str] | None) -> tuple[Tensor, ...] | None:
    """Example inputs on the meta device, batch 2, of the sizes given on the command line."""
    import torch

    if not sizes:
        return None
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return tuple(torch.empty(2, *_size(text), dtype=dtype, device="meta") for text in sizes)


def _size(text: str) -> list[int]:
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--input-size {text!r} is not a shape of one sample: write positive numbers, as 3x224x224")
    return [int(part) for part in parts]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the plan {str(path)!r}: {error}") from error


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise PruneError(f"cannot write {path}: {error}") from error
    return path


# -- output --------------------------------------------------------------------------------------------------

Result = TypeVar("Result")


class _Steps:
    """A progress bar on stderr over named steps; silent where stderr is no terminal."""

    def __init__(self, as_json: bool, total: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total)
        self._quiet = _quiet(as_json)

    def __call__(self, name: str, work: Callable[[], Result]) -> Result:
        self._progress.update(self._task, description=name)
        result = work()
        self._progress.advance(self._task)
        return result

    def __enter__(self) -> _Steps:
        self._quiet.__enter__()
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        self._quiet.__exit__(kind, error, trace)


def _quiet(as_json: bool) -> contextlib.AbstractContextManager[Any]:
    """With --json, stdout holds the document alone: what a model file prints when built goes to stderr."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(_finite(document), indent=1, sort_keys=True))


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: those become null."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plan_document(plan: Plan) -> dict[str, Any]:
    return {**json.loads(plan.to_json()), "macs": list(plan.macs), "params": list(plan.params)}


def _show_plan(console: Console, plan: Plan) -> None:
    """Groups that lose channels, one a row; those that keep all of them, counted by reason."""
    pruned = [g for g in plan.groups if len(g.kept) < g.size]
    title = f"Groups of {escape(plan.model)}"
    table = Table(_group_column(), "before", "after", "kept", "removal", title=title)
    for g in pruned[:_ROWS]:
        kind = "exact" if g.exact else "statistics change"
        table.add_row(escape(g.id), str(g.size), str(len(g.kept)), f"{len(g.kept) / g.size:.0%}", kind)
    console.print(table)
    _more(console, len(pruned))
    whole = Counter(_whole(g) for g in plan.groups if len(g.kept) == g.size)
    for reason, count in whole.most_common():
        console.print(f"{count} whole: {reason}", markup=False, highlight=False)


def _group_column() -> Column:
    return Column("group", overflow="fold")  # a name cut short cannot be passed to `inspect`


def _whole(group: GroupPlan) -> str:
    return f"{group.status}, {group.reason}" if group.reason else "free, ranked above the cut"


def _more(console: Console, count: int) -> None:
    if count > _ROWS:
        console.print(f"... and {count - _ROWS} more: --json lists all", highlight=False)


def _show_cost(
    console: Console,
    macs: tuple[int, int],
    params: tuple[int, int],
    after: str,
    latency: tuple[float, float] | None = None,
) -> None:
    table = Table("", "original", after, "ratio")
    table.add_row("MACs (M)", *_pair(macs, 1e-6, ",.1f"))
    table.add_row("parameters (M)", *_pair(params, 1e-6, ",.3f"))
    if latency is not None:
        table.add_row("latency (ms)", *_pair(latency, 1e3, ",.2f"))
    console.print(table)


def _pair(values: tuple[float, float], scale: float, form: str) -> list[str]:
    before, after = (value * scale for value in values)
    return [format(before, form), format(after, form), f"{after / before:.3f}" if before else "-"]


def _show_errors(console: Console, checks: Checks) -> None:
    for name, error in (
        ("permutation invariance of the original", checks.permutation_error),
        ("pruned against masked original", checks.masked_error),
    ):
        if error is not None:
            verdict = "ok" if error <= checks.tolerance else "[bold red]FAILED[/]"
            console.print(
                f"{verdict}: {name}, relative error {error:.1e} (limit {checks.tolerance:.0e})",
                highlight=False,
            )


def _note(text: str) -> None:
    Console(stderr=True).print(f"note: {text}", style="yellow", highlight=False, soft_wrap=True)
