"""An outer search over the ratios of stages."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from support.grouped import Grouped
from test_sensitivity import distance, net
from torch import nn

import fxprune
from fxprune import InputError, PruneError
from fxprune.studies import search_ratios

torch.set_num_threads(1)


@pytest.fixture
def optuna() -> Any:
    return pytest.importorskip("optuna", reason="needs optuna, the extra `search`")


def search(**options: Any) -> Any:
    model, x = net()
    return search_ratios(model, distance(model, x), x[:1], better="lower", **{"stages": ["0", "2"], "trials": 4, **options})


def test_every_trial_meets_the_budget_and_the_best_is_given(optuna: Any) -> None:
    model, x = net()
    seen: list[nn.Module] = []

    def evaluate(slim: nn.Module) -> float:
        seen.append(slim)
        return float(distance(model, x)(slim))

    found = search_ratios(model, evaluate, x[:1], stages=["0", "2"], macs=0.6, trials=6, better="lower", criterion="l1")
    plans = [slim.meta.get("fxprune") for slim in seen[1:]]
    assert len(seen) == 7 and len(found.trials) == 6 and plans == [None] * 6 and found.dense == 0
    assert found.value == min(value for _, value in found.trials) and found.plan.macs[1] <= 0.6 * found.plan.macs[0]
    assert len({*found.trials[0][0].values()}) == 1  # the first is the plain ratio
    slim = fxprune.apply(model, found.plan)
    assert distance(model, x)(slim) == pytest.approx(found.value)
    for ratios, value in found.trials:
        plan = fxprune.plan(model, ratios, x[:1], criterion="l1")
        assert plan.macs[1] <= 0.6 * plan.macs[0]
        assert distance(model, x)(fxprune.apply(model, plan)) == pytest.approx(value)
        wider = {name: max(0.0, ratio - 0.13) for name, ratio in ratios.items()}  # a channel more of each
        assert fxprune.plan(model, wider, x[:1], criterion="l1").macs[1] > 0.6 * plan.macs[0]


def test_the_same_seed_gives_the_same(optuna: Any) -> None:
    images = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    one, other = (search(macs=0.7, repair=images, seed=3, verify=False) for _ in range(2))
    assert one == other and one.plan.options["criterion"] == "surgeon"


def test_groups_that_exclude_each_other(optuna: Any) -> None:
    model, x = Grouped().eval(), torch.randn(2, 3, 6, 6)
    found = search_ratios(model, distance(model, x), x, stages=["a", "b"], macs=0.7, trials=2, better="lower")
    assert fxprune.apply(model, found.plan).meta["fxprune"].checks.passed


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no budget": ({}, "by budgets"),
    "text": ({"stages": "0", "macs": 0.5}, "stages must be a list"),
    "none": ({"stages": [], "macs": 0.5}, "stages must be a list"),
    "unknown": ({"stages": ["9"], "macs": 0.5}, "matches no group"),
    "trials": ({"trials": 0, "macs": 0.5}, "trials must be"),
    "too little": ({"stages": ["0"], "macs": 0.1}, "the stages 0 cannot meet the budgets"),
    "better": ({"better": "best", "macs": 0.5}, "better must be"),
    "once": ({"repair": iter([1]), "criterion": "l1", "macs": 0.5}, "not an iterator"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_bad_arguments(kind: str, optuna: Any) -> None:
    options, text = WRONG[kind]
    model, x = net()
    with pytest.raises(InputError, match=text):
        search_ratios(model, lambda slim: 0.0, x[:1], **{"stages": ["0"], **options})


def test_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PruneError, match=r"pip install \"fxprune\[search\]\""):
        search(macs=0.5)
