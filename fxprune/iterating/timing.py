"""The table of latencies of an iteration: the one that it began with, at the speed that the machine had then."""

from __future__ import annotations

import json
from typing import Any

from fxprune.analysis.analysis import Analysis
from fxprune.errors import InputError
from fxprune.iterating.store import State
from fxprune.options import PruneOptions
from fxprune.profiling.table import table_of
from fxprune.profiling.using import settled, table_for
from fxprune.submodules.target import Target

__all__ = ["timed_options"]


def timed_options(options: PruneOptions, target: Target, analysis: Analysis, profile: Any, state: State) -> PruneOptions:
    """The options with a number for ``round_to="auto"``; the analysis gets the table's prediction.

    Table and speed are of the state; where it has none, those that are given and measured, which it gets. So a run that goes on
    predicts what the run that was killed did, whatever was measured since.

    Raises:
        InputError, PlanMismatch: the table is another one than that of the state, cannot be read, or is for another model.
    """
    stored = state.timing
    if stored is None or profile is not None:
        table = json.loads(json.dumps(table_for(options, target, profile).to_dict()))
        if stored is not None and stored["table"] != table:
            raise InputError(
                "the folder holds an iteration with another latency table: leave profile out, and its own is taken, or name "
                "another folder"
            )
        stored = stored or {"table": table, "pace": None}
    found = settled(options, target, analysis, table_of(stored["table"]), stored["pace"])
    latency: Any = analysis.latency
    state.timing = {"table": stored["table"], "pace": 1.0 if latency is None else latency.pace}
    return found
