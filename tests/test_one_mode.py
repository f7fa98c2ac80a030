"""A mode that cannot be recorded does not refuse the other; parts whose mode a user chose."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.codegen import rebuild
from tests.kinds.base import Case, Written, rows
from tests.kinds.modes import ONE_MODE, Part, _parts, _reads_data_in_training

X = rows(3)[0]


def other_of(case: Case) -> str:
    return "training" if case.modes == ("evaluation",) else "evaluation"


@pytest.mark.parametrize(("case", "why"), ONE_MODE, ids=[c.name for c, _ in ONE_MODE])
def test_the_other_mode_is_refused_with_the_reason(case: Case, why: str) -> None:
    slim = fxprune.prune(case.make(), 0.5, rows(2))
    report, other = slim.meta["fxprune"], other_of(case)
    assert report.modes[case.modes[0]] == "recorded" and why in report.modes[other]
    assert json.loads(json.dumps(report.to_dict()))["modes"] == report.modes
    assert f"{other} could not be recorded" in str(report)
    slim(X)  # it is handed over in the mode that it has
    for model in (slim, nn.Sequential(slim), fxprune.trace(case.make(), rows(2)), copy.deepcopy(slim)):
        model.train(case.modes[0] == "training")(X)
        with pytest.raises(fxprune.PruneError, match=f"recorded in {case.modes[0]} alone"):
            model.train(other == "training")(X)


@pytest.mark.parametrize(("case", "why"), ONE_MODE, ids=[c.name for c, _ in ONE_MODE])
def test_generated_source_refuses_it_too(case: Case, why: str) -> None:
    slim = fxprune.prune(case.make(), 0.5, rows(2))
    made = rebuild(slim)
    slim.train(case.modes[0] == "training")
    assert torch.equal(made.train(case.modes[0] == "training")(X), slim(X))
    with pytest.raises(RuntimeError, match=f"recorded in {case.modes[0]} alone"):
        made.train(other_of(case) == "training")(X)


@pytest.mark.parametrize(("case", "why"), ONE_MODE, ids=[c.name for c, _ in ONE_MODE])
def test_submodules_of_one_mode(case: Case, why: str) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.other = case.make(), nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return self.other(self.part(x)) if x.sum() > -1e9 else None

    slim = fxprune.prune(Whole(), 0.5, rows(2), submodules="part", verify=False)
    slim.train(case.modes[0] == "training")(X)
    with pytest.raises(fxprune.PruneError, match=f"recorded in {case.modes[0]} alone"):
        slim.train(other_of(case) == "training")(X)


def test_only_the_part_that_asks_must_be_in_its_mode() -> None:
    class Data(nn.Module):
        def forward(self, x: Any) -> Any:
            return _reads_data_in_training(self, x)

    model = Written(lambda m, h: nn.functional.dropout(m.data(h), 0.5, m.training), data=Data())
    slim = fxprune.prune(model.train(), 0.5, X)
    assert slim.training and not slim.get_submodule("data").training
    torch.manual_seed(0)
    assert not torch.equal(slim(X), slim(X))  # dropout is at work
    with pytest.raises(fxprune.PruneError, match="the part 'data' was recorded in evaluation alone"):
        slim.train()(X)


@pytest.mark.parametrize("modes", [(True, False), (False, True), (True, True), (False, False)])
def test_each_part_goes_by_its_own_mode(modes: tuple[bool, bool]) -> None:
    model = Written(_parts, one=Part(2.0), two=Part(3.0))
    recorded = fxprune.trace(model, X)
    for net in (model, recorded):
        net.get_submodule("one").training, net.get_submodule("two").training = modes
    assert torch.equal(recorded(X), model(X))
    made = rebuild(recorded)
    assert torch.equal(made(X), model(X))


@pytest.mark.parametrize(
    ("between", "parts"),
    [
        (lambda m, h: m.two(m.one(h)), {"one": 2.0, "two": 3.0}),
        (lambda m, h: m.one(h) if m.training else m.one(h) * 2, {"one": 2.0}),
    ],
    ids=["follow one another", "cannot be told apart"],
)
def test_parts_whose_modes_must_be_equal(between: Callable[[nn.Module, torch.Tensor], Any], parts: dict[str, float]) -> None:
    model = Written(between, **{name: Part(by) for name, by in parts.items()})
    recorded = fxprune.trace(model, X)
    for mode in (True, False):
        assert torch.equal(recorded.train(mode)(X), model.train(mode)(X))
    recorded.get_submodule("one").train(True)
    with pytest.raises(AssertionError, match="must be equal"):
        recorded(X)


def test_where_both_modes_fail_the_first_is_named() -> None:
    model = Written(lambda m, h: h * h.sum().item() if m.training else h[h > 0])
    with pytest.raises(fxprune.TraceError, match="getitem"):
        fxprune.prune(model, 0.5, X)
