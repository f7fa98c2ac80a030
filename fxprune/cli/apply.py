"""``fxprune apply``: what a plan removes, removed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxprune.cli import options as given
from fxprune.cli.accuracy import check_data, measured
from fxprune.cli.data import data_spec
from fxprune.cli.input import build, read_plan, stored_shapes
from fxprune.cli.output import Steps, note, note_fresh_weights
from fxprune.cli.reporting import check_report, not_kept, write_report
from fxprune.cli.result import save, show

__all__ = ["apply"]


def apply(
    model: given.Model,
    plan: Annotated[
        Path, typer.Argument(help="plan.json, as `fxprune prune` writes it; or the folder that it is in.", show_default=False)
    ],
    checkpoint: given.Weights = None,
    form: given.FormOption = given.Form.GRAPH,
    out: given.Out = None,
    report: given.Report = None,
    data: given.Data = None,
    mean: given.Mean = None,
    std: given.Std = None,
    crop: given.Crop = None,
    verify: given.Verify = True,
    seed: given.Seed = 0,
    as_json: given.Json = False,
) -> None:
    """Remove from MODEL, whose weights --checkpoint names, what PLAN removes: the plan may come from other weights.

    A --report says how accurate both are on the images of --data.
    """
    from fxprune import api

    check_report(report)
    check_data(data, report)
    written = []
    with Steps(as_json, total=2 + (out is not None) + (report is not None) + (data is not None)) as step:
        stored = read_plan(plan)
        spec = data_spec(data, stored_shapes(stored), (mean, std, crop), seed=seed)
        net = step("building the model", lambda: build(model, checkpoint, seed))
        slim = step("applying the plan", lambda: api.apply(net, stored, verify=verify, form=form.value))
        if spec is not None:
            step("validating", lambda: measured(net, slim, spec, 0))
        if out is not None:
            written = step("writing", lambda: save(stored, slim, out))
        if report is not None:
            written.append(step("writing the report", lambda: write_report(slim, report)))
    show(slim.meta["fxprune"].plan, slim.meta["fxprune"], written, as_json)
    if not as_json:
        note_fresh_weights(model, checkpoint, "prunes")
        if out is None:
            note(not_kept(written))
