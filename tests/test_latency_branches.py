"""Residual branches and channels in one budget of time: what a table says of models without some of their branches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_branches_budgets import gone, quiet
from test_branches_pruning import X, model_of
from test_latency import CPU, Made
from torch import nn

import fxprune
from fxprune.profiling import using
from fxprune.profiling.table import LatencyTable
from fxprune.profiling.verb import measured
from fxprune.submodules.target import Target


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return quiet(model_of("residual")[0], 1, 3).eval()


@pytest.fixture(scope="module")
def table(model: nn.Module) -> LatencyTable:
    return measured(Target.of(model, (), X), Made(CPU, 1), 16, ("head_dim", (), 0), (False, None))


@pytest.fixture
def pruned(model: nn.Module, table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(using, "engine_of", lambda name, device, threads: Made(CPU, threads))

    def prune(**options: Any) -> Any:
        return fxprune.prune(model, example_inputs=X, latency=0.5, profile=table, **options).meta["fxprune"]

    return prune


def test_branches_that_do_little_go_and_the_time_is_met(pruned: Any) -> None:
    report = pruned(branches=True, data=[torch.randn(32, *X.shape[1:])])
    assert gone(report.plan) == ["blocks.1", "blocks.3"] and report.checks.passed
    dense, slim = report.latency.measured
    assert slim / dense == pytest.approx(0.5, rel=0.06) and abs(report.latency.error) < 0.05
    [budget] = report.plan.account.budgets
    assert budget.after <= budget.target
    alone = pruned(verify=False).plan
    assert not gone(alone) and _kept_elsewhere(report.plan) > _kept_elsewhere(alone)


def _kept_elsewhere(plan: fxprune.Plan) -> int:
    """Channels outside of the branches that do little."""
    return sum(len(group.kept) for group in plan.groups if "blocks.1" not in group.id and "blocks.3" not in group.id)


def test_a_time_beside_work_and_branches_by_name(pruned: Any) -> None:
    report = pruned(branches=["blocks.2"], macs=0.6, verify=False)
    assert all(budget.after <= budget.target for budget in report.plan.account.budgets)
    assert set(gone(report.plan)) <= {"blocks.2"} and abs(report.latency.error) < 0.05
