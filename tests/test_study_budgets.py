"""Criteria compared where all of them leave the same MACs: the pruned sets are those that `prune` takes under that budget."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from support.grouped import Grouped
from support.study import X, plain

import fxprune
from fxprune.errors import InputError
from fxprune.studies import Study
from fxprune.studies.agreement import shared


@functools.cache
def found() -> Study:
    return fxprune.study(plain(), ["l1", "fpgm"], X, ratios=[0.5], macs=[0.5, 1e6], params=0.3, noise=0, weights=False)


def gone(criterion: str, scope: str, **budget: float) -> dict[str, np.ndarray]:
    scaled: Any = {"scope": "global", "normalization": "none"} if scope == "raw" else {"scope": scope}
    plan = fxprune.plan(plain(), example_inputs=X, criterion=criterion, **scaled, **budget)
    return {g.id: np.array(g.removed, np.int64) for g in plan.groups if g.status == "free"}


QUICK = {("macs", 0.5, "global"), ("macs", 1e6, "layer")}
SETS = [(*budget, scope) for budget in (("macs", 0.5), ("macs", 1e6), ("params", 0.3)) for scope in ("layer", "global", "raw")]


@pytest.mark.parametrize(
    ("name", "kept", "scope"), [s if s in QUICK else pytest.param(*s, marks=pytest.mark.slow) for s in SETS]
)
def test_the_sets_are_those_of_prune(name: str, kept: float, scope: str) -> None:
    sizes = list(zip(found().units, found().sizes, strict=True))
    sets = [gone(criterion, scope, **{name: kept}) for criterion in ("l1", "fpgm")]
    overlap = found().pair("l1", "fpgm").overlap(scope, kept, name)
    assert overlap is not None
    assert (overlap.share, overlap.expected, overlap.jaccard) == pytest.approx(shared(*sets, sizes, within=scope == "layer"))


def test_ratios_are_as_they_were_and_a_budget_is_no_ratio() -> None:
    pair, alone = found().pair("l1", "fpgm"), fxprune.study(plain(), ["l1", "fpgm"], X, ratios=[0.5], noise=0, weights=False)
    assert [o for o in pair.overlaps if not o.budget] == list(alone.pair("l1", "fpgm").overlaps)
    assert len(pair.overlaps) == 3 * 4 and pair.overlap("global", 0.5, "macs") != pair.overlap("global", 0.5)
    assert alone.pair("l1", "fpgm").overlap("global", 0.5, "macs") is None and "macs" not in alone.options


def test_groups_that_exclude_each_other_and_stability() -> None:
    study = fxprune.study(Grouped().eval(), ["l1", "l1"], torch.zeros(2, 3, 6, 6), ratios=[0.5], macs=0.7, weights=False)
    assert {o.share for o in study.pair("l1", "l1#2").overlaps} == {1.0}
    noise = study.of("l1").noise
    assert noise is not None and (stable := noise.overlap("global", 0.7, "macs")) is not None and stable.share > 0.8


def test_as_text_and_json() -> None:
    text, document = str(found()), found().to_json()
    assert "In common at 0.5 of all MACs (by chance)" in text and "In common at 1,000,000 MACs (by" in text
    assert "In common at 0.3 of all parameters" in text
    assert Study.from_json(document) == Study.from_json(Study.from_json(document).to_json())
    old = json.loads(document) | {"version": 1}
    for pair in old["pairs"]:
        pair["overlaps"] = [{k: v for k, v in o.items() if k != "budget"} for o in pair["overlaps"] if not o["budget"]]
    assert Study.from_json(json.dumps(old)).pair("l1", "fpgm").overlap("layer", 0.5) == found().pair("l1", "fpgm").overlap(
        "layer", 0.5
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"macs": 0.5, "unit": "layer"}, "leave out unit='layer'"),
        ({"macs": []}, "macs names no budget"),
        ({"macs": [0.5, 1.0]}, "macs must be the fraction that is kept"),
        ({"params": "half"}, "params must be"),
        ({"macs": {"a": 0.5}}, "macs must be"),
        ({"macs": 1e-6}, "no choice of channels meets the budgets"),
    ],
)
def test_bad_budgets_are_refused_before_anything_is_scored(options: dict[str, Any], sentence: str) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(InputError, match=sentence):
        fxprune.study(plain(), [never], X, **options)
