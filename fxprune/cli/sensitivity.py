"""``fxprune sensitivity``: how much of each group of channels may go, by trying."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from fxprune.cli import options as given
from fxprune.cli.data import data_spec
from fxprune.cli.input import build, example_inputs
from fxprune.cli.output import Steps, note_fresh_weights, print_json, show_written
from fxprune.errors import InputError

__all__ = ["sensitivity"]


class Measure(str, Enum):
    """What is measured."""

    TOP1 = "top1"
    TOP5 = "top5"
    LOSS = "loss"


def sensitivity(
    model: given.Model,
    data: given.Data = None,
    measure: Annotated[
        Measure, typer.Option(help="Accuracy, or cross entropy (which tells small changes apart).")
    ] = Measure.TOP1,
    ratios: Annotated[
        list[float] | None, typer.Option(help="Shares of a group that go: several.", show_default="0.1 0.3 0.5 0.7 0.9")
    ] = None,
    groups: Annotated[list[str] | None, typer.Option(help="Names or globs of layers: several.", show_default="all")] = None,
    criterion: given.CriterionOrDefault = None,
    ignore: given.Ignore = None,
    attention: given.AttentionOption = given.Attention.HEAD_DIM,
    seed: given.Seed = 0,
    checkpoint: given.Weights = None,
    input_size: given.InputSize = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Measure on so many images at most, drawn at random.", show_default=False)
    ] = None,
    repair: Annotated[
        int | None,
        typer.Option(min=2, help="Measure again after a repair from N images of --repair-data.", show_default=False),
    ] = None,
    repair_data: Annotated[
        str | None,
        typer.Option(help="Images for repairs, and for criteria that observe: others than --data.", show_default=False),
    ] = None,
    mean: given.Mean = None,
    std: given.Std = None,
    crop: given.Crop = None,
    verify: Annotated[bool, typer.Option(help="Prove each model that is measured.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for sensitivity.json, from which a run that was killed goes on, .txt and pictures."),
    ] = None,
    plots: Annotated[bool, typer.Option(help="Draw pictures into the folder.")] = True,
    as_json: given.Json = False,
) -> None:
    """Remove shares of each group of coupled channels of MODEL alone, and measure what that does on --data."""
    import fxprune
    from fxprune.codegen.files import write_text
    from fxprune.studies.measures import classifies

    if data is None:
        raise InputError("give --data: images with labels, on which the models are measured")
    if repair is not None and repair_data is None:
        raise InputError("--repair N reads N images of --repair-data, which should be others than those of --data")
    if drawn := out is not None and plots:
        from fxprune.studies.plots import require

        require()
    shaping, written, better = (mean, std, crop), list[Path](), "lower" if measure is Measure.LOSS else "higher"
    options: dict[str, Any] = {"groups": groups or "*", "criterion": criterion, "ignore": tuple(ignore or ())}
    options |= {"attention": attention.value, "seed": seed, "verify": verify, "better": better}
    options |= {"ratios": ratios} if ratios else {}
    with Steps(as_json, total=2 + drawn) as step:
        net = step("building the model", lambda: build(model, checkpoint, seed))
        inputs = example_inputs(net, input_size)
        loader = _loader(net, data_spec(data, inputs, shaping, limit=limit, seed=seed))
        if repair_data is not None:
            images = _loader(net, data_spec(repair_data, inputs, shaping, limit=repair, seed=seed))
            options |= {"data": images, "repair": images if repair is not None else None}
        file = None if out is None else out / "sensitivity.json"
        evaluate = classifies(loader, measure.value)
        found = step("measuring", lambda: fxprune.sensitivity(net, evaluate, inputs, checkpoint=file, **options))
        if out is not None and file is not None:
            written = [file, write_text(out / "sensitivity.txt", f"{found}\n")]
        if drawn and out is not None:
            from fxprune.studies import plots as draw

            written += step("drawing", lambda: draw.save({"sensitivity": draw.sensitivity(found)}, out))
    if as_json:
        print_json({**found.to_dict(), "written": [str(path) for path in written]})
        return
    from rich.console import Console

    typer.echo(str(found))
    show_written(Console(), written)
    note_fresh_weights(model, checkpoint, "measures")


def _loader(net: Any, spec: Any) -> Any:
    return spec.loader(net)
