"""Steps that drop residual branches, go by a table of latencies, or prune submodules: one final plan, whatever is killed."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from support.grouped import Grouped
from support.killing import killed_again_and_again
from test_iterate import shaken
from test_latency import Net as Timed
from test_latency import table_of
from test_latency_now import CPU, Paced
from torch import Tensor, nn

import fxprune
from fxprune import InputError
from fxprune.iterating import store
from fxprune.planning.branch_plan import lost_groups
from fxprune.profiling import using

torch.set_num_threads(1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.norm(self.a(x)).relu())


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), Block(), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


class Parts(nn.Module):
    """A body and a head that are graphs, in a model that is none, with weights of its own between them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 6, 3))
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.head = nn.Sequential(nn.Conv2d(6, 10, 1), nn.ReLU(), nn.Conv2d(10, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) * self.scale
        return self.head(y if bool(y.detach().abs().sum() < 1e9) else y * 0.5)


IMAGES = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(1))
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "branches": (residual, {"macs": 0.35, "branches": True, "data": [(IMAGES,)]}),
    "named branches": (residual, {"params": 0.6, "branches": ["2", "3"]}),
    "latency": (Timed, {"latency": 0.5}),
    "latency, and groups that exclude each other": (Grouped, {"latency": 0.6}),
    "milliseconds": (Timed, {"latency": "120 us", "macs": 0.9}),
    "multiples": (Timed, {"ratio": 0.4, "round_to": "auto"}),
    "submodules": (Parts, {"macs": 0.4, "submodules": ["body", "head"]}),
}
EACH = ("branches", "milliseconds", "submodules")


def made(case: str) -> nn.Module:
    torch.manual_seed(0)
    return CASES[case][0]().eval()


@cache
def table(case: str) -> Any:
    return table_of(made(case), 8, block=4)


def run(case: str, folder: str | Path | None = None, pace: float = 1.3, **options: Any) -> tuple[list[Any], Any]:
    """Reports and the last slim model, on a machine that takes `pace` times as long as it did for the table."""
    given = {"steps": 2, "train": shaken, "verify": False, **CASES[case][1], **options}
    if {"latency", "round_to"} & given.keys():
        given.setdefault("profile", table(case))
    reports = []
    with mock.patch.object(using, "engine_of", lambda name, device, threads: Paced(CPU, threads, block=4, pace=pace)):
        for slim in fxprune.iterate(made(case), example_inputs=IMAGES[:1], folder=folder, **given):
            reports.append(slim.meta["fxprune"])
    return reports, slim


def same(one: nn.Module, other: nn.Module) -> bool:
    found = other.state_dict()
    return all(torch.equal(v, found[n]) for n, v in one.state_dict().items())


def gone(plan: Any) -> dict[str, set[int]]:
    return {g.id: set(g.removed) for g in plan.groups} | {b.id: set() if b.kept else {0} for b in plan.branches}


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_the_final_plan_is_one_of_the_original(case: str) -> None:
    """What goes grows; each plan, applied to the original at once, gives the same program; the original is as it was."""
    reports, slim = run(case, steps=3, verify=True)
    model = made(case)
    before, previous = copy.deepcopy(model.state_dict()), dict[str, set[int]]()
    for number, report in enumerate(reports, 1):
        found = gone(report.plan)
        assert all(previous[name] <= found[name] for name in previous.keys() - lost_groups(report.plan))
        assert report.checks.passed and (report.step.number, report.step.of) == (number, 3)
        previous = found
    report = reports[-1]
    again: Any = fxprune.apply(model, fxprune.Plan.from_json(report.plan.to_json()))
    again.load_state_dict(slim.state_dict())
    assert torch.equal(again(IMAGES), slim(IMAGES)) and report.step.original.passed
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    for budget in report.plan.account.budgets if report.plan.account else ():
        assert budget.after <= budget.target


def test_branches_go_in_steps_and_stay_away() -> None:
    """What the output loses with those that are left is measured anew, on the weights as they are."""
    reports, slim = run("branches")
    names = [{b.id for b in r.plan.branches if not b.kept} for r in reports]
    assert names[0] and names[0] <= names[1] and not any(n.split(".")[0] in names[1] for n, _ in slim.named_parameters())
    scores = [{b.id: b.score for b in r.plan.branches if b.kept} for r in reports]
    assert any(scores[0][n] != scores[1][n] for n in scores[1])


def test_a_time_is_met_in_steps_and_told_in_each() -> None:
    reports, _ = run("milliseconds")
    budget = next(b for b in reports[-1].plan.account.budgets if b.name == "latency")
    assert budget.after <= 120_000 and reports[-1].latency.measured[1] == pytest.approx(120e-6, rel=0.1)
    assert all(r.latency.pace == pytest.approx(1.3, rel=0.1) for r in reports)
    assert reports[0].latency.predicted[1] > reports[1].latency.predicted[1]


@pytest.mark.slow
def test_training_outside_of_submodules_is_kept(tmp_path: Path) -> None:
    def train(slim: Any) -> None:
        with torch.no_grad():
            slim.scale.add_(1)

    _, slim = run("submodules", train=train)
    assert torch.equal(slim.scale.detach(), torch.full((6, 1, 1), 3.0)) and type(slim) is Parts
    assert torch.equal(slim.get_submodule("body.3").bias.detach(), made("submodules").get_submodule("body.3").bias.detach())


# -- killed, and resumed --------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.parametrize("case", [c if c == "submodules" else pytest.param(c, marks=pytest.mark.slow) for c in EACH])
def test_it_may_end_at_any_write(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write of the state fails once, after it has been replaced; then the iteration goes on."""
    expected, whole = run(case)
    real, seen = store.replaced, set[str]()

    def failing(path: Path, put: Any) -> None:
        real(path, put)
        if path.suffix == ".safetensors" and (mark := str(len(load_file(path))) + path.read_bytes()[:2000].hex()) not in seen:
            seen.add(mark)
            raise Stop

    monkeypatch.setattr(store, "replaced", failing)
    ends = 0
    while True:
        try:
            reports, slim = run(case, tmp_path)
            break
        except Stop:
            ends += 1
    assert ends >= 4 and same(slim, whole)
    assert reports[-1].plan.to_json() == expected[-1].plan.to_json() == (tmp_path / "plan.json").read_text()
    assert reports[-1].latency == expected[-1].latency


@pytest.mark.slow
def test_the_table_and_the_speed_are_those_of_the_beginning(tmp_path: Path) -> None:
    """A run that goes on an hour later, on a machine that is slower by then, comes to the same plan."""
    expected, _ = run("milliseconds", pace=1.3)

    def stop(slim: Any) -> None:
        if slim.meta["fxprune"].step.number == 2:
            raise Stop
        shaken(slim)

    with pytest.raises(InputError, match="train failed in step 2"):
        run("milliseconds", tmp_path, train=stop)
    reports, _ = run("milliseconds", tmp_path, pace=2.0, profile=None)
    assert reports[-1].plan.to_json() == expected[-1].plan.to_json()
    with pytest.raises(InputError, match="another latency table: leave profile out"):
        run("milliseconds", tmp_path, profile=table_of(made("latency"), 7, block=4))


def killable(case: str, folder: str | None) -> None:
    run(case, folder, verify=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("case", EACH)
def test_killed_at_any_moment(case: str, tmp_path: Path) -> None:
    reports, whole = run(case, verify=True)
    expected = reports[-1].plan.to_json()

    def check(folder: Path) -> None:
        assert (folder / "plan.json").read_text() == expected
        stored = load_file(folder / "iteration.safetensors")
        assert all(torch.equal(stored[f"weights.{n}"], v) for n, v in whole.state_dict().items())

    assert killed_again_and_again((__name__, "killable", case), tmp_path, 20, check) >= 40


# -- what is not possible -------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)), nn.Linear(8, 16)
        self.out.weight = self.body[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x))


WRONG: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, Any], str]] = {
    "shared": (
        Tied,
        torch.zeros(2, 8),
        {"ratio": 0.5, "submodules": "body"},
        "name the modules that hold both",
    ),
    "data": (Parts, IMAGES, {"ratio": 0.5, "submodules": "body", "criterion": "taylor", "data": [1]}, "as one graph"),
    "repair": (Parts, IMAGES, {"ratio": 0.5, "submodules": "body", "repair": IMAGES}, "leave repair or submodules out"),
    "no budget": (residual, IMAGES, {"ratio": 0.5, "branches": True}, "candidates beside channels under a budget"),
    "no branch": (residual, IMAGES, {"macs": 0.5, "branches": ["stem"]}, "matches no residual branch"),
    "no table": (Timed, IMAGES[:1], {"latency": 0.5, "profile": 3}, "profile must be what"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_possible_is_said_at_once(kind: str) -> None:
    make, x, options, sentence = WRONG[kind]
    with pytest.raises(InputError, match=sentence):
        fxprune.iterate(make().eval(), example_inputs=x, **options)
