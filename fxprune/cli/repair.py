"""``fxprune repair``: what is left of a pruned model, fitted to what the whole one does."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fxprune.cli import options as given
from fxprune.cli.accuracy import measured
from fxprune.cli.data import data_spec
from fxprune.cli.input import build, example_inputs, read_plan, same_folder
from fxprune.cli.output import Steps, note, note_fresh_weights
from fxprune.cli.reporting import check_report, write_report
from fxprune.cli.result import save, show
from fxprune.errors import InputError

__all__ = ["repair"]


class Norms(str, Enum):
    """What becomes of batch norms: see `fxprune.repair`."""

    MATCH = "match"
    RECALIBRATE = "recalibrate"
    KEEP = "keep"


def repair(
    model: given.Model,
    slim: Annotated[Path, typer.Option(help="Folder that `fxprune prune --out` wrote.", show_default=False)],
    data: Annotated[str, typer.Option(help="Images, whose labels are not looked at: as --data of others.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for slim.py, slim.safetensors and plan.json.", show_default=False)],
    checkpoint: given.Weights = None,
    images: Annotated[int, typer.Option(min=2, help="So many of them are read, drawn at random.")] = 640,
    ridge: Annotated[float, typer.Option(help="What a change of the weights costs; more for few images.")] = 1e-3,
    norms: Annotated[Norms, typer.Option(help="What becomes of the statistics of batch norms.")] = Norms.MATCH,
    mean: given.Mean = None,
    std: given.Std = None,
    crop: given.Crop = None,
    input_size: given.InputSize = None,
    repair_checkpoint: given.RepairCheckpoint = None,
    verify: given.Verify = True,
    report: given.Report = None,
    seed: given.Seed = 0,
    as_json: given.Json = False,
) -> None:
    """Fit the slim model of --slim to what MODEL, whose weights --checkpoint names, does on the images of --data."""
    from fxprune import api
    from fxprune.inputs.checkpoints import load_into, read_state_dict
    from fxprune.recovery.repair.verb import repair as run

    check_report(report)
    plan, weights = read_plan(slim), slim / "slim.safetensors"
    if same_folder(slim, out):
        raise InputError(f"--out {str(out)!r} is the folder of the slim model itself: name another, so that it stays")
    if plan.options.get("submodules"):
        raise InputError(f"{str(slim)!r} holds pruned submodules: a repair needs the model as one graph")
    state = read_state_dict(weights)  # before anything is built
    with Steps(as_json, total=4 + 2 * (report is not None)) as step:
        net = step("building the model", lambda: build(model, checkpoint, seed))
        spec = data_spec(data, example_inputs(net, input_size), (mean, std, crop), limit=images, seed=seed)
        assert spec is not None
        loader = spec.loader(net)
        cut = step("applying the plan", lambda: api.apply(net, plan, verify=verify))
        load_into(cut, state, f"the slim model {str(weights)!r}")
        options = {"ridge": ridge, "norms": norms.value, "seed": seed, "checkpoint": repair_checkpoint}
        made = step("repairing", lambda: run(cut, net, loader, **options))  # type: ignore[arg-type]
        written = step("writing", lambda: save(plan, made, out))
        if report is not None:
            step("validating", lambda: measured(net, made, spec, images))
            written.append(step("writing the report", lambda: write_report(made, report)))
    for text in loader.notes:
        note(text)
    show(plan, made.meta["fxprune"], written, as_json)
    if not as_json:
        note_fresh_weights(model, checkpoint, "repairs towards")
