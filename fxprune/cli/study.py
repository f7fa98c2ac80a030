"""``fxprune study``: criteria compared on one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fxprune.cli import options as given
from fxprune.cli.data import data_spec
from fxprune.cli.input import build, example_inputs
from fxprune.cli.output import Steps, note_fresh_weights, print_json, show_written

__all__ = ["study"]


def study(
    model: given.Model,
    criteria: Annotated[
        list[str] | None,
        typer.Option(
            help="Criteria to compare: several names.", show_default="l1 l2 fpgm fermat", autocompletion=given.criteria
        ),
    ] = None,
    ratios: Annotated[
        list[float] | None, typer.Option(help="Of channels that go: several.", show_default="0.1 0.3 0.5 0.7")
    ] = None,
    macs: Annotated[
        list[float] | None,
        typer.Option(help="Also compare where so much of the MACs is kept: fractions or counts, several.", show_default=False),
    ] = None,
    params: Annotated[
        list[float] | None, typer.Option(help="Likewise, where so many parameters are kept: several.", show_default=False)
    ] = None,
    unit: Annotated[
        given.Unit, typer.Option(help="Rank groups of coupled channels, or the filters of each layer.")
    ] = given.Unit.GROUP,
    data: given.Data = None,
    batches: given.Batches = None,
    mean: given.Mean = None,
    std: given.Std = None,
    crop: given.Crop = None,
    noise: Annotated[float, typer.Option(help="Relative error of the weights that scores should survive.")] = 0.01,
    ignore: given.Ignore = None,
    attention: given.AttentionOption = given.Attention.HEAD_DIM,
    seed: given.Seed = 0,
    checkpoint: given.Weights = None,
    input_size: given.InputSize = None,
    out: Annotated[Path | None, typer.Option(help="Folder for study.json, study.txt and pictures.", show_default=False)] = None,
    plots: Annotated[bool, typer.Option(help="Draw pictures into the folder.")] = True,
    as_json: given.Json = False,
) -> None:
    """Say how alike criteria rank the channels of MODEL, and how well each can tell them apart."""
    from fxprune.studies import command, text

    options: dict[str, Any] = {"unit": unit.value, "batches": batches, "noise": noise, "seed": seed}
    options |= {"macs": macs or None, "params": params or None}
    options |= {"ratios": ratios or (0.1, 0.3, 0.5, 0.7), "ignore": tuple(ignore or ()), "attention": attention.value}
    with Steps(as_json, total=2 + (out is not None) * (plots + (data is not None))) as step:
        net = step("building the model", lambda: build(model, checkpoint, seed))
        inputs, names = example_inputs(net, input_size), criteria or ["l1", "l2", "fpgm", "fermat"]
        observed = data_spec(data, inputs, (mean, std, crop), batches=batches, seed=seed)
        found, written = command.run(net, inputs, command.Wanted(names, observed, out, plots), step, **options)
    if as_json:
        print_json({**found.to_dict(), "written": [str(path) for path in written]})
        return
    console = Console()
    text.show(found, console)
    show_written(console, written)
    note_fresh_weights(model, checkpoint, "studies")
