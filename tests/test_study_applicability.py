"""`fxprune.study`: how far apart the scores of a criterion are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.study import X, plain, plain_study

import fxprune


def test_variation_has_the_closed_form():
    at = plain_study().units.index("conv2.weight")
    variation = {a.criterion: a.variation[at] for a in plain_study().applicability}
    assert variation["l1"] == pytest.approx(math.sqrt((math.pi / 2 - 1) / 576), rel=0.25)
    assert variation["l2"] == pytest.approx(1 / math.sqrt(2 * 576), rel=0.25)
    assert variation["fermat"] == pytest.approx(variation["l2"], rel=0.1)
    assert variation["fpgm"] == pytest.approx(variation["l2"] / 2, rel=0.1)


def test_wide_gaussian_layers_are_called_flat():
    assert plain_study().of("l2").flat() == pytest.approx(2 / 3)  # the first layer, of 27 weights, varies by 14 %


def test_margin_is_the_gap_at_the_cut():
    scores = torch.arange(64.0) ** 2
    entry = fxprune.study(plain(), [lambda group, tensors: scores], X, ratios=[0.5], weights=False).applicability[0]
    assert entry.margins == {0.5: (pytest.approx((32**2 - 31**2) / scores.mean().item()),) * 3}
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    assert entry.middle[0] == pytest.approx((high - low) / middle)


def test_equal_scores_have_no_ranks_and_no_margin():
    study = fxprune.study(plain(), [lambda group, tensors: torch.ones(64), "l2"], X, weights=False)
    assert study.criteria == ("<lambda>", "l2")
    (pair,) = study.pairs
    assert (pair.mean, pair.least, pair.raw) == (None, None, None)
    assert math.isnan(pair.above())
    assert study.of("<lambda>").margins[0.5] == (0.0, 0.0, 0.0)
    assert "-" in str(study)


def test_ranking_survives_one_percent_of_noise_and_not_a_hundred():
    little, much = (fxprune.study(plain(), ["l2"], X, noise=n, weights=False).of("l2").noise for n in (0.01, 0.99))
    assert little.mean > 0.99 > 0.9 > much.mean
    assert little.overlap("layer", 0.5).share > 0.9
    assert fxprune.study(plain(), ["l2"], X, noise=0, weights=False).of("l2").noise is None
