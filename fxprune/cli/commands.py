"""The `fxprune` command: prune, inspect, verify, study, demo.

Results go to stdout, notes and progress to stderr. An error that fxprune raises on purpose is one sentence on
stderr and exit code 2; a check that fails is exit code 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fxprune.cli.many_values import ManyValues
from fxprune.cli.options import (
    Attention,
    AttentionOption,
    Batches,
    Checkpoint,
    Criterion,
    Data,
    Ignore,
    InputSize,
    Json,
    MaxRatio,
    Model,
    Ratio,
    RoundTo,
    Scope,
    ScopeOption,
    Seed,
    Submodule,
    Unit,
    Weights,
)
from fxprune.cli.output import Steps, note, print_json, quiet, show_cost, show_errors, show_groups, show_plan, write_text
from fxprune.errors import InputError, PruneError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["app", "main"]

app = typer.Typer(
    help="Remove channels from any timm or torchvision model, and prove that the smaller model is right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    data: Data = None,
    batches: Batches = None,
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
    if plan is not None and (ratio is not None or plan_only or submodule or data):
        raise InputError(
            "--plan FILE applies a plan that was made before: leave out --ratio, --plan-only, --submodule and --data"
        )
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
    with Steps(as_json, total=2 + (out is not None)) as step:
        given = None if plan is None else Plan.from_json(_read(plan))
        net = step("building the model", lambda: _build(model, checkpoint, seed))
        inputs = _inputs(net, input_size)
        if data is not None:
            from fxprune.studies.command import load_batches

            options |= {"data": load_batches(data, net), "batches": batches}
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
            written.append(write_text(out / "plan.json", made.to_json()))
    if as_json:
        planned = {**json.loads(made.to_json()), "macs": list(made.macs), "params": list(made.params)}
        document = planned if report is None else report.to_dict()
        print_json({**document, "written": [str(path) for path in written]})
        return
    console = Console()
    show_plan(console, made)
    show_cost(console, made.macs, made.params, "planned" if report is None else "pruned")
    if report is not None and report.checks is not None:
        show_errors(console, report.checks)
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    if checkpoint is None and not model.endswith(".py") and model.startswith(("timm:", "torchvision:")):
        note("the weights are fresh random ones: --checkpoint FILE prunes trained weights")
    if out is None:
        note("nothing was written: --out DIR keeps the result")


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

    with Steps(as_json, total=2) as step:
        net = step("building the model", lambda: _build(model, None, 0))
        inputs = _inputs(net, input_size)
        if layer is not None:
            answer = step("analyzing", lambda: api.why(net, layer, inputs, submodules=submodule or ()))
        else:
            found = step("analyzing", lambda: api.analyze(net, inputs, submodules=submodule or ()))
    if layer is not None:
        print_json(asdict(answer)) if as_json else typer.echo(str(answer))
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
        print_json({"model": found.model_name, "macs": found.macs(), "params": found.params(), "groups": groups})
        return
    show_groups(Console(), model, found)


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
    from fxprune.proofs.randomize import randomize

    with Steps(as_json, total=3) as step:
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
        print_json({"model": slim.meta["fxprune"].model, "ratio": ratio, **checks.to_dict()})
    else:
        console = Console()
        show_cost(console, checks.macs, checks.params, "pruned", checks.latency)
        show_errors(console, checks)
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
    data: Data = None,
    batches: Batches = None,
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

    with Steps(as_json, total=2 + (out is not None) * (plots + (data is not None))) as step:
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
        print_json({**found.to_dict(), "written": [str(path) for path in written]})
        return
    console = Console()
    text.show(found, console)
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    if checkpoint is None and model.startswith(("timm:", "torchvision:")):
        note("the weights are fresh random ones: --checkpoint FILE studies trained weights")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for slim.py, slim.safetensors and plan.json.")] = Path("fxprune-demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the training images for the dense model.")] = 16,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a small residual CNN on real images, prune it to half of its MACs or less, fine-tune, compare."""
    from fxprune.cli.demo import run

    with quiet(as_json):
        result = run(out, json=as_json, epochs=epochs, seed=seed)
    if as_json:
        print_json(result)


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

    from fxprune.inputs.models import load_model

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


# -- output -------
