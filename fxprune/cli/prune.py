"""``fxprune prune``: a smaller model, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxprune.cli import options as given
from fxprune.cli import stepping
from fxprune.cli.accuracy import looked_at, measured
from fxprune.cli.data import data_spec
from fxprune.cli.input import build, example_inputs, read_plan, timed_inputs
from fxprune.cli.output import Steps, note, note_fresh_weights
from fxprune.cli.profile import profiled
from fxprune.cli.repairing import check_repair, repaired
from fxprune.cli.reporting import check_report, not_kept, write_report
from fxprune.cli.result import save, show
from fxprune.errors import InputError
from fxprune.options import PruneOptions, check_attention

if TYPE_CHECKING:
    from torch import nn

    from fxprune.inputs.data import DataSpec
    from fxprune.profiling.table import LatencyTable

__all__ = ["prune"]


def prune(
    model: given.Model,
    ratio: given.Ratio = None,
    macs: given.Macs = None,
    params: given.Params = None,
    memory: given.Memory = None,
    latency: given.Latency = None,
    engine: given.Engine = "eager",
    threads: given.Threads = None,
    batch: given.Batch = 1,
    scope: given.Scope = "global",
    normalization: given.NormalizationOption = None,
    criterion: given.CriterionOrDefault = None,
    ignore: given.Ignore = None,
    max_ratio: given.MaxRatio = 0.95,
    round_to: given.RoundToOrAuto = "1",
    min_width: given.MinWidth = 1,
    attention: given.AttentionOption = given.Attention.HEAD_DIM,
    seed: given.Seed = 0,
    checkpoint: given.Weights = None,
    input_size: given.InputSize = None,
    submodule: given.Submodule = None,
    exact_norms: given.ExactNorms = False,
    branches: given.Branches = False,
    form: given.FormOption = given.Form.GRAPH,
    data: given.Data = None,
    batches: given.Batches = None,
    mean: given.Mean = None,
    std: given.Std = None,
    crop: given.Crop = None,
    out: given.Out = None,
    report: given.Report = None,
    plan: Annotated[
        Path | None, typer.Option(help="Apply this plan.json instead of making a plan.", show_default=False)
    ] = None,
    verify: given.Verify = True,
    repair: Annotated[
        int | None,
        typer.Option(min=2, help="Fit what is left to N images of --data, without labels; 640 are plenty.", show_default=False),
    ] = None,
    repair_checkpoint: given.RepairCheckpoint = None,
    steps: stepping.Count = None,
    schedule: stepping.Schedule = "cubic",
    steps_folder: stepping.Folder = None,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Say what would go, without doing it.")] = False,
    as_json: given.Json = False,
) -> None:
    """Prune MODEL, and write the smaller model as Python source and safetensors."""
    from fxprune import api
    from fxprune.recovery.repair.ranked import CHOSEN, default_criterion

    check_repair(repair, data, submodule or plan_only, repair_checkpoint)
    check_report(report)
    own = form is given.Form.MODULE
    if own and (repair is not None or plan_only):
        raise InputError(
            "--form module comes last: make the plan, and repair the graph; then `fxprune apply` takes --form module"
        )
    timed = latency is not None or round_to == "auto"
    alone = plan or plan_only or repair_checkpoint or own
    several = stepping.Stepping(steps, schedule, steps_folder, alone)
    wanted = any(amount is not None for amount in (ratio, macs, params, memory, latency))
    by = criterion or default_criterion(repaired=repair is not None)
    by_images = wanted and criterion is None and repair is not None  # those of the repair, if no others are asked for
    _check(plan, wanted, plan_only or submodule or (data and repair is None and report is None))
    judged = report is not None and data is not None and not plan_only
    options: dict[str, Any] = {}
    if wanted:
        scaled: Any = None if normalization is None else normalization.value
        whole, kind = ignore or (), check_attention(attention.value)
        step_of: Any = given.multiple(round_to)
        rest = (scaled, exact_norms, macs, params, memory, latency, branches, min_width)
        chosen = PruneOptions(ratio, by, scope, whole, max_ratio, step_of, kind, seed, *rest)
        options = given.keywords(chosen)
    slim, written = None, []
    apart = repair is not None and (plan is not None or repair_checkpoint is not None)  # from the choice of a plan
    with Steps(as_json, total=2 + timed + apart + judged + sum(asked is not None for asked in (out, report))) as step:
        stored = None if plan is None else read_plan(plan)
        net = step("building the model", lambda: build(model, checkpoint, seed))
        inputs = timed_inputs(net, input_size, batch) if timed else example_inputs(net, input_size)
        shaping = (mean, std, crop)
        limit = repair if by_images and batches is None else None
        observed = data_spec(data, inputs, shaping, batches=batches, seed=seed, **({} if limit is None else {"limit": limit}))
        options |= {"example_inputs": inputs, "submodules": submodule or (), **_observed(net, observed, batches)}
        if timed and not several.begun:
            options["profile"] = step("measuring", lambda: _table(net, options, (engine, threads)))
        if plan_only:
            made = step("planning", lambda: api.plan(net, **options))
        else:
            images = None if repair is None else data_spec(data, inputs, shaping, limit=repair, seed=seed)
            if several.wanted:
                slim = several(net, None if images is None else images.loader(net), step, options | {"verify": verify})
            elif stored is not None:
                slim = step("applying the plan", lambda: api.apply(net, stored, verify=verify, form=form.value))
            else:
                options["repair"] = None if images is None or apart else images.loader(net)
                what = "pruning" if options["repair"] is None else "pruning and repairing"
                slim = step(what, lambda: api.prune(net, verify=verify, form=form.value, **options))
            if images is not None and apart:
                slim = step("repairing", lambda: repaired(net, slim, images, repair_checkpoint))
            if by_images:
                slim.meta["fxprune"].notes.append(CHOSEN)
            made = slim.meta["fxprune"].plan
            if judged:
                shown: Any = data_spec(data, inputs, shaping, seed=seed)
                seen = looked_at(by if wanted else "l2", repair, batches, by_images)
                step("validating", lambda: measured(net, slim, shown, seen))
        if out is not None:
            written = step("writing", lambda: save(made, slim, out))
        if report is not None:
            written.append(step("writing the report", lambda: write_report(made if slim is None else slim, report)))
    show(made, None if slim is None else slim.meta["fxprune"], written, as_json)
    if not as_json:
        if by_images:
            note(CHOSEN)
        note_fresh_weights(model, checkpoint, "prunes")
        if out is None:
            note(not_kept(written))


def _check(plan: Path | None, wanted: bool, others: Any) -> None:
    """Either a plan is made or one is applied.

    Args:
        wanted: a ratio or a budget is given.
        others: options that are for a new plan.
    """
    if plan is None and not wanted:
        raise InputError(
            "give --ratio or a budget (--macs, --params, --memory, --latency), to make a plan, or --plan FILE, to apply one"
        )
    if plan is not None and (wanted or others):
        raise InputError(
            "--plan FILE applies a plan that was made before: leave out --ratio, --macs, --params, --memory, --latency, "
            "--plan-only, --submodule, and --data where there is no --repair"
        )


def _observed(model: nn.Module, data: DataSpec | None, batches: int | None) -> dict[str, Any]:
    """What a criterion that observes the model at work needs, as keyword arguments of `fxprune.prune`."""
    if data is None:
        return {}
    loader = data.loader(model)
    for text in loader.notes:
        note(text)
    return {"data": loader, "batches": batches}


def _table(net: nn.Module, options: dict[str, Any], runs: tuple[str, int | None]) -> LatencyTable:
    """How long slim models take, measured now if it was not before."""
    mine = {name: options[name] for name in ("attention", "ignore", "submodules")}
    return profiled(net, options["example_inputs"], mine | {"engine": runs[0], "threads": runs[1]})
