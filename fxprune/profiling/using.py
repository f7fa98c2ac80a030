"""A table of latencies in a plan: the budget's cost, the best multiple, and the slim model's own time beside the prediction."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from fxprune.analysis.analysis import Analysis
from fxprune.errors import InputError, PlanMismatch, shown
from fxprune.options import PruneOptions
from fxprune.planning.plan import fingerprint
from fxprune.planning.timed import Timed
from fxprune.profiling.engines.base import Engine
from fxprune.profiling.engines.registry import engine_of
from fxprune.profiling.measuring import Bench
from fxprune.profiling.predicted import Predicted
from fxprune.profiling.segments import segments_of
from fxprune.profiling.steps import step_of
from fxprune.profiling.table import LatencyTable, device_name, read_table
from fxprune.profiling.verb import device_of, measured
from fxprune.rewrite import Rewritten
from fxprune.submodules.target import Target

__all__ = ["settled", "table_for", "timed"]


def settled(options: PruneOptions, target: Target, analysis: Analysis, profile: Any, pace: float | None = None) -> PruneOptions:
    """The options with a number for ``round_to="auto"``; the analysis gets the table's prediction.

    Where a time is asked for, and no fraction, the table's times are brought to the machine as it is now: it may have learnt
    them minutes or days ago, when other things ran beside. A fraction needs none of that, and gives the same plan every time.

    Args:
        pace: by which the table's times are multiplied; None: what the dense model says now.

    Raises:
        InputError, PlanMismatch: the table cannot be read, or is for another model.
    """
    table = table_for(options, target, profile)
    if table.key["fingerprint"] != fingerprint(target.model):
        raise PlanMismatch(f"the latency table was made for a {table.key['model']} with other parameters than this model has")
    predicted = table.predicted(analysis, segments_of(analysis))
    if options.latency is not None:
        if pace is None and float(options.latency) >= 1:
            pace = _pace(predicted, analysis, target.model)
        analysis.latency = predicted if pace is None else predicted.paced(pace)
    return replace(options, round_to=step_of(predicted, analysis)) if options.round_to == "auto" else options


def table_for(options: PruneOptions, target: Target, given: Any) -> LatencyTable:
    """The table that a user gives, or else one of eager PyTorch, measured now if it was not before.

    Raises:
        InputError: this is none, or it cannot be read.
    """
    if isinstance(given, LatencyTable):
        return given
    if isinstance(given, (str, os.PathLike)):
        return read_table(given)
    if given is not None:
        raise InputError(f"profile must be what fxprune.profile gives, or the path of its file, not {shown(given)}")
    return measured(target, engine_of("eager", device_of(target.model)), None, (options.attention, options.ignore, 0))


def _pace(predicted: Predicted, analysis: Analysis, model: nn.Module) -> float:
    """How many times as long the dense model takes now as the table says; 1 of a table of another device than is here."""
    try:
        engine = _engine(predicted.key)
    except InputError:  # there is no such device or engine here
        return 1.0
    if device_name(engine.device) != predicted.key["device"]:
        return 1.0
    sizes = np.array([group.size for group in analysis.full.free], np.float64)
    return Bench(analysis.full, model, predicted.segments, engine, predicted.key["seed"]).dense_now() / predicted.seconds(sizes)


def _engine(key: Mapping[str, Any]) -> Engine:
    """What ran the models of a table, or would here."""
    return engine_of(key["engine"], str(key["device"]).partition(":")[0], key["threads"])


def timed(rewritten: Rewritten, model: nn.Module, notes: list[str]) -> Timed | None:
    """Measure the slim model in turns with the dense one, on the engine of the table; None, and a note, where that is not here.

    Args:
        notes: of the report. The slim model is right all the same: nothing is lost for want of a time.
    """
    try:
        return _measured(rewritten, model)
    except InputError as error:
        notes.append(f"the slim model was not timed: {error}")
        return None


def _measured(rewritten: Rewritten, model: nn.Module) -> Timed:
    cut = rewritten.cut
    analysis, predicted = cut.analysis, cut.analysis.latency
    assert isinstance(predicted, Predicted)
    key = predicted.key
    engine = _engine(key)
    bench = Bench(analysis.full, model, predicted.segments, engine, key["seed"])
    sizes = np.array([group.size for group in analysis.full.free], np.float64)
    kept = np.array([group.size - len(cut.gone.get(group.id, ())) for group in analysis.free], np.float64)
    slim = replace(bench, analysis=analysis).slim(cut.gone)[1]
    slim_seconds, dense_seconds = bench.beside_dense(slim)
    return Timed(
        key["engine"],
        device_name(engine.device),
        key["threads"],
        (predicted.seconds(sizes), predicted.within(analysis).seconds(kept)),
        (dense_seconds, slim_seconds),
        predicted.pace,
        key["device"],
    )
