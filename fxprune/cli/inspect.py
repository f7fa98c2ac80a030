"""``fxprune inspect``: the groups of coupled channels, and why a layer may be pruned or not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fxprune.cli import options as given
from fxprune.cli.input import build, example_inputs, read_plan
from fxprune.cli.output import Steps, print_json, show_groups

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["inspect"]


def inspect(
    model: given.Model,
    layer: Annotated[str | None, typer.Argument(help="Module or parameter to explain.", show_default=False)] = None,
    input_size: given.InputSize = None,
    submodule: given.Submodule = None,
    costs: Annotated[bool, typer.Option("--costs", help="What each layer costs, by three counts, instead.")] = False,
    plan: Annotated[
        Path | None, typer.Option(help="With --costs: of what this plan.json leaves, too.", show_default=False)
    ] = None,
    dot: Annotated[
        Path | None, typer.Option(help="Write groups and layers as a graph for Graphviz.", show_default=False)
    ] = None,
    graphml: Annotated[Path | None, typer.Option(help="The same as GraphML.", show_default=False)] = None,
    as_json: given.Json = False,
) -> None:
    """List the groups of coupled channels of MODEL; with LAYER, say whether and why it may be pruned."""
    from fxprune import api
    from fxprune.analysis import pictures
    from fxprune.codegen.files import write_text

    if costs or plan is not None:
        _show_costs(model, input_size, plan, as_json)
        return

    with Steps(as_json, total=2) as step:
        net = step("building the model", lambda: build(model, None, 0))
        inputs = example_inputs(net, input_size)
        if layer is not None:
            answer = step("analyzing", lambda: api.why(net, layer, inputs, submodules=submodule or ()))
        else:
            found = step("analyzing", lambda: api.analyze(net, inputs, submodules=submodule or ()))
    if layer is None:
        for file, drawn in ((dot, pictures.dot), (graphml, pictures.graphml)):
            if file is not None:
                write_text(file, drawn(found))
    if layer is not None:
        print_json(asdict(answer)) if as_json else typer.echo(str(answer))
    elif as_json:
        print_json(_document(found))
    else:
        show_groups(Console(), model, found)


def _show_costs(model: str, input_size: list[str] | None, plan: Path | None, as_json: bool) -> None:
    from fxprune.costing import costs

    with Steps(as_json, total=2) as step:
        stored = None if plan is None else read_plan(plan)
        net = step("building the model", lambda: build(model, None, 0))
        found = step("counting", lambda: costs(net, stored, example_inputs(net, input_size)))
    print_json(found.to_dict()) if as_json else typer.echo(str(found))


def _document(found: Analysis) -> dict[str, Any]:
    groups = [
        {
            "id": group.id,
            "size": group.size,
            "status": group.status,
            "reason": group.reason,
            "exact": group.exact,
            "members": [{"name": m.name, "axis": m.axis, "role": m.role} for m in group.members],
        }
        for group in found.groups
    ]
    return {"model": found.model_name, "macs": found.macs(), "params": found.params(), "groups": groups}
