"""A budget in milliseconds is one of the machine as it is now: a table that was learnt at another speed is brought to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from test_latency import CPU, Made, Net, X, table_of
from torch import nn

import fxprune
from fxprune.planning.timed import Timed
from fxprune.profiling import using
from fxprune.profiling.engines.base import Run
from fxprune.profiling.table import LatencyTable


@dataclass(frozen=True)
class Paced(Made):
    """The made engine on a machine that takes `pace` times as long."""

    pace: float = 1.0

    def seconds(self, run: Run) -> float:
        return self.pace * float(run())


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def table(model: nn.Module) -> LatencyTable:
    return table_of(model)


def at(pace: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(using, "engine_of", lambda name, device, threads: Paced(CPU, threads, pace=pace))


@pytest.mark.parametrize("pace", [pytest.param(0.7, marks=pytest.mark.slow), 1.6])
def test_a_time_is_met_on_the_machine_as_it_is_now(
    pace: float, model: nn.Module, table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(pace, monkeypatch)
    asked = 0.6 * pace * table.dense
    slim = fxprune.prune(model, example_inputs=X, latency=f"{asked * 1e6:.3f} us", profile=table, verify=False)
    found = slim.meta["fxprune"].latency
    (dense, took), (dense_said, said) = found.measured, found.predicted
    assert dense == pytest.approx(pace * table.dense) and dense_said == pytest.approx(dense)
    assert said <= asked and took == pytest.approx(asked, rel=0.06)  # of the table as it was: 0.7 or 1.6 times as far
    assert found.pace == pytest.approx(pace, rel=0.02) and f"table's times {found.pace:.2f} times" in str(found)
    [budget] = slim.meta["fxprune"].plan.account.budgets
    assert budget.before == pytest.approx(dense * 1e9, rel=1e-3)


def test_a_fraction_is_the_same_plan_at_any_speed(
    model: nn.Module, table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = []
    for pace in (1.0, 2.0):
        at(pace, monkeypatch)
        plans.append(fxprune.plan(model, example_inputs=X, latency=0.5, profile=table).to_json())
    assert plans[0] == plans[1]
    [budget] = fxprune.Plan.from_json(plans[0]).account.budgets
    assert budget.before == pytest.approx(table.dense * 1e9, rel=0.02)


@pytest.mark.parametrize("other", ["cpu: another", pytest.param("cuda: a board that is not here", marks=pytest.mark.slow)])
def test_a_table_of_another_device_stays_as_it_is(
    other: str, model: nn.Module, table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its milliseconds are of that device, whatever this one takes; the report says so."""
    if other.startswith("cpu"):
        at(3.0, monkeypatch)
    theirs = replace(table, key=table.key | {"device": other})
    options: dict[str, Any] = {"example_inputs": X, "latency": f"{0.6 * table.dense * 1e6:.3f} us"}
    plan = fxprune.plan(model, profile=theirs, **options)
    assert plan.account.budgets[0].before == pytest.approx(table.dense * 1e9, rel=0.02)
    if other.startswith("cpu"):
        found = fxprune.prune(model, profile=theirs, verify=False, **options).meta["fxprune"].latency
        assert (
            found.pace == 1 and found.learnt == other != found.device and str(found).endswith("; the table is of cpu: another")
        )


@pytest.mark.parametrize("asked", [0.5, "0.02 ms"])
def test_what_cannot_be_timed_here_is_pruned_all_the_same(asked: Any, model: nn.Module, table: LatencyTable) -> None:
    theirs = replace(table, key=table.key | {"device": "cuda:99 a board that is not here"})
    report = fxprune.prune(model, example_inputs=X, latency=asked, profile=theirs, verify=False).meta["fxprune"]
    assert report.latency is None and report.plan.macs[1] < report.plan.macs[0]
    assert [note for note in report.notes if note.startswith("the slim model was not timed: ")]


def test_what_the_report_says() -> None:
    plain = Timed("eager", "cpu", 1, (0.004, 0.002), (0.004, 0.002))
    assert str(plain) == "latency (eager, 1 thread): 4.00 -> 2.00 ms measured (50.0%), 4.00 -> 2.00 ms predicted (50.0%)"
    said = str(replace(plain, pace=1.25))
    assert said == f"{plain}, the table's times 1.25 times: so long the dense model took before the search"


def test_steps_go_on_where_they_cannot_be_timed(model: nn.Module, table: LatencyTable) -> None:
    theirs = replace(table, key=table.key | {"device": "cuda:99 a board that is not here"})
    slims = [*fxprune.iterate(model, example_inputs=X, latency=0.5, profile=theirs, steps=2, verify=False)]
    reports = [slim.meta["fxprune"] for slim in slims]
    assert len(reports) == 2 and all(r.latency is None and any("not timed" in note for note in r.notes) for r in reports)
