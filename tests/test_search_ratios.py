"""An outer search over the ratios of stages."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.grouped import Grouped
from support.killing import killed_again_and_again
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


# -- a search that was killed -----------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stopping(after: int) -> Any:
    """Measures the distance to the whole model so many times, then fails."""
    model, x = net()
    measure, left = distance(model, x), [after]

    def evaluate(slim: nn.Module) -> float:
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return float(measure(slim))

    return evaluate


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(optuna: Any, tmp_path: Path) -> None:
    """Stopped in the middle of every trial: after the first random ones the sampler goes by what it was told."""
    model, x = net()
    options: dict[str, Any] = {"stages": ["0", "2"], "macs": 0.6, "better": "lower", "verify": False, "trials": 14, "seed": 5}
    whole, file, stops = search_ratios(model, stopping(99), x[:1], **options), tmp_path / "search.json", 0
    while True:
        try:
            found = search_ratios(model, stopping(1 + 1 + stops % 3), x[:1], checkpoint=file, **options)
            break
        except InputError as error:
            assert "evaluate failed" in str(error)
            stops += 1
    assert stops >= 6 and found == whole and found.plan.to_json() == whole.plan.to_json()
    done = search_ratios(model, stopping(1), x[:1], checkpoint=file, **options)  # only the whole model is measured
    more = search_ratios(model, stopping(99), x[:1], checkpoint=file, **options | {"trials": 16})
    fewer = search_ratios(model, stopping(1), x[:1], checkpoint=file, **options)
    assert done == whole and more.trials[:14] == whole.trials and len(more.trials) == 16 and fewer == more


def test_a_file_of_another_search_is_refused(optuna: Any, tmp_path: Path) -> None:
    file = tmp_path / "search.json"
    search(macs=0.7, trials=2, checkpoint=file)
    whole = file.read_text()
    for options, said in (
        ({"macs": 0.6}, "another options"),
        ({"stages": ["2", "0"]}, "another stages"),
        ({"repair": torch.randn(40, 6)}, "another options"),  # which ranks by another criterion, too
    ):
        with pytest.raises(InputError, match=said):
            search(**{"macs": 0.7, "trials": 2, "checkpoint": file, **options})
    drawn = json.loads(whole)["trials"][1]["proportion"]["2"]
    for damaged, said in (
        ("{", "holds no search that could go on"),
        ("[]", "holds no search that could go on"),
        (whole.replace('"value": 0', '"value": "x'), "holds no search that could go on"),
        (whole.replace('"best": ', '"best": 7'), "trial 7[0-9]* is not there"),
        (whole.replace(str(drawn), str(drawn / 2)), "holds trials that this search does not draw"),
        (whole.replace('"dense": 0', '"dense": 3'), "another measure"),
    ):
        assert damaged != whole
        file.write_text(damaged)
        with pytest.raises(InputError, match=said):
            search(macs=0.7, trials=2, checkpoint=file)
    with pytest.raises(InputError, match="is a folder"):
        search(macs=0.7, checkpoint=tmp_path)


def killable(_: str, folder: str | None) -> None:
    search(macs=0.6, trials=16, seed=5, checkpoint=None if folder is None else Path(folder) / "search.json")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killed_at_any_moment(optuna: Any, tmp_path: Path) -> None:
    whole = search(macs=0.6, trials=16, seed=5)

    def check(folder: Path) -> None:
        stored = json.loads((folder / "search.json").read_text())
        assert stored["plan"] == json.loads(whole.plan.to_json())
        assert [(t["ratios"], t["value"]) for t in stored["trials"]] == whole.trials

    assert killed_again_and_again((__name__, "killable", ""), tmp_path, 20, check) >= 40


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
