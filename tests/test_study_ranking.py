"""`fxprune.study`: what is ranked, on which data, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from support.study import X, Y, plain, plain_study
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError, NothingToPrune


def test_groups_are_those_that_can_be_pruned():
    assert plain_study().units == ("conv1.weight", "conv2.weight", "conv3.weight")
    assert plain_study().sizes == (64, 64, 64)


def test_layers_are_all_that_have_filters():
    study = fxprune.study(plain(), ["l1", "l2"], X, unit="layer", ignore=["conv1"], weights=False)
    assert study.units == ("conv1.weight", "conv2.weight", "conv3.weight", "head.weight")
    expected = plain().head.weight.detach().abs().sum(1)
    assert study.scores["l1"][-1] == pytest.approx(expected.tolist(), rel=1e-5)


def test_model_and_criteria_stay_as_they_are():
    before = {n: t.clone() for n, t in plain().state_dict().items()}
    criterion = fxprune.criteria.resolve("apoz")
    fxprune.study(plain(), [criterion], X, data=[(X, Y)], weights=False)
    assert not criterion._groups
    assert all(torch.equal(t, before[n]) for n, t in plain().state_dict().items())


class Counted:
    """Data that count how often they are read."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        yield X, Y


def test_criteria_that_observe_share_a_pass():
    data = Counted()
    study = fxprune.study(plain(), ["apoz", "taylor", "l2"], X, data=data, noise=0, weights=False)
    assert data.passes == 1
    assert len(study.pairs) == 3
    fxprune.study(plain(), ["apoz", "taylor"], X, data=data, noise=0.01, weights=False)
    assert data.passes == 3


def test_an_iterator_is_kept_for_the_second_pass():
    once, kept = (fxprune.study(plain(), ["apoz"], X, data=d, weights=False) for d in (iter([(X, Y)]), [(X, Y)]))
    assert once == kept


def test_the_first_batches_are_kept_for_the_second_pass():
    """A shuffled loader would begin with others."""
    data = Counted()
    fxprune.study(plain(), ["apoz"], X, data=data, batches=1, weights=False)
    assert data.passes == 1


def test_scores_are_those_that_prune_uses():
    plan = fxprune.plan(plain(), 0.5, X, criterion="taylor", data=[(X, Y)], scope="layer")
    study = fxprune.study(plain(), ["taylor"], X, data=[(X, Y)], weights=False)
    for name, scores in zip(study.units, study.scores["taylor"], strict=True):
        lowest = np.argsort(scores, kind="stable")[:32]
        assert set(lowest.tolist()).isdisjoint(plan.group(name).kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criteria": ["l3"]}, "no criterion 'l3'"),
        ({"criteria": "l1"}, "criteria must be a list"),
        ({"criteria": []}, "criteria must be a list"),
        ({"ratios": [0.5, 1.0]}, "ratios must be fractions"),
        ({"ratios": []}, "ratios must be fractions"),
        ({"noise": -0.1}, "noise must be"),
        ({"criteria": ["apoz"]}, "pass data"),
        ({"criteria": ["bn_scale"], "unit": "layer"}, "scores whole groups"),
        ({"unit": "filter"}, "unit must be"),
        ({"criteria": [lambda g, t: torch.full((64,), math.nan)]}, "not finite"),
        ({"criteria": [lambda g, t: torch.ones(3)]}, "of shape"),
    ],
    ids=lambda v: None if isinstance(v, dict) else v.replace(" ", "-"),
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        fxprune.study(plain(), **{"criteria": ["l1"], "example_inputs": X, **options})


def test_nothing_to_rank():
    with pytest.raises(NothingToPrune):
        fxprune.study(nn.ReLU(), ["l1"], X)
