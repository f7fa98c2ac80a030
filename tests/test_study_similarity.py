"""`fxprune.study`: how alike criteria are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from support.study import X, plain, plain_study

import fxprune
from fxprune.criteria.random_scores import Random
from fxprune.studies.agreement import shared, spearman

WIDE = ("conv2.weight", "conv3.weight")


@pytest.mark.parametrize(("first", "second", "least"), [("l1", "l2", 0.85), ("l2", "fermat", 0.95), ("fermat", "fpgm", 0.99)])
def test_norms_and_distances_rank_gaussian_filters_alike(first, second, least):
    wide = [r for name, r in zip(plain_study().units, plain_study().pair(first, second).layers, strict=True) if name in WIDE]
    assert len(wide) == 2
    assert min(wide) > least


def test_a_pair_has_no_order():
    assert plain_study().pair("l1", "l2") is plain_study().pair("l2", "l1")
    assert len(plain_study().pairs) == 6


def test_a_criterion_agrees_with_itself_exactly():
    pair = fxprune.study(plain(), ["fermat", "fermat"], X, weights=False).pair("fermat", "fermat#2")
    assert set(pair.layers) == {1.0}
    assert (pair.everywhere, pair.raw, pair.mean, pair.above()) == (1, 1, 1, 1)
    assert {(o.share, o.jaccard) for o in pair.overlaps} == {(1.0, 1.0)}


def test_independent_scores_share_what_chance_gives():
    pair = fxprune.study(plain(), [Random(seed=1), Random(seed=2)], X, weights=False).pair("Random", "Random#2")
    assert all(abs(r) < 0.35 for r in pair.layers)  # deviation 1 / sqrt(63)
    assert abs(pair.everywhere) < 0.2
    for overlap in pair.overlaps:
        assert abs(overlap.share - overlap.expected) < 0.15


def test_overlap_by_chance_is_the_ratio():
    for overlap in plain_study().pair("l1", "fpgm").overlaps:
        gone = 64 - math.floor(64 * (1 - overlap.ratio) + 1e-9)
        ratio = gone / 64 if overlap.scope == "layer" else round(192 * overlap.ratio) / 192
        assert overlap.expected == pytest.approx(ratio)


def test_without_normalisation_l1_follows_the_size_of_filters_and_l2_does_not():
    """With He's scale, the l2 norm is that of every layer and the l1 norm grows as sqrt(n)."""
    pair = plain_study().pair("l1", "l2")
    assert pair.raw < 0.7 < 0.85 < pair.everywhere
    norms = {name: [np.mean(s) for s in plain_study().scores[name]] for name in ("l1", "l2")}
    assert norms["l2"][0] == pytest.approx(norms["l2"][1], rel=0.1)
    assert norms["l1"][1] / norms["l1"][0] == pytest.approx(math.sqrt(576 / 27), rel=0.1)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [10, 20, 15], 0.5),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3], [5, 5, 5], None),
        ([1, 1, 2, 3], [1, 2, 2, 9], stats.spearmanr([1, 1, 2, 3], [1, 2, 2, 9]).statistic),
    ],
    ids=["partly", "reversed", "a constant has no ranks", "ties"],
)
def test_spearman(a, b, expected):
    r = spearman(np.array(a, float), np.array(b, float))
    assert r == (None if expected is None else pytest.approx(expected))


def test_shared_sets():
    a, b = {"p": np.array([0, 1]), "q": np.array([2])}, {"p": np.array([1, 2])}
    sizes = [("p", 4), ("q", 6)]
    assert shared(a, b, sizes, within=True) == (2 / 5, 2 * (2 * 2 / 4) / 5, 1 / 4)
    assert shared(a, b, sizes, within=False) == (2 / 5, 2 * (3 * 2 / 10) / 5, 1 / 4)
    assert shared({}, {}, sizes, within=True) is None
