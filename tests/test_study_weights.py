"""`fxprune.study`: what the weights look like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from support.study import plain_study

from fxprune.studies.distribution import _levene, test_filters

N, INPUTS, KERNEL = 64, 32, 9


def gaussian(seed: int = 0, shape: tuple[int, int, int] = (N, INPUTS, KERNEL)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(16, 3, 9), (64, 32, 9), (256, 16, 1)], ids=["few", "many", "1 x 1"])
def test_gaussian_filters_hold_the_assumption(seed, shape):
    tests = test_filters(0.02 * gaussian(seed, shape))
    assert tests.gaussian.holds and tests.mean.holds and tests.variance.holds
    if shape[2] == 1:
        assert tests.blocks is None
    else:
        assert tests.blocks.p > 0.001
        assert tests.blocks.energy == pytest.approx(tests.blocks.pairs, abs=0.1)
        assert tests.blocks.inside == pytest.approx(tests.blocks.chance, rel=0.2)


def test_uniform_weights_are_not_gaussian():
    tests = test_filters(np.random.default_rng(0).uniform(-1, 1, (N, INPUTS, KERNEL)))
    assert not tests.gaussian.holds
    assert tests.gaussian.kurtosis == pytest.approx(-1.2, abs=0.05)
    assert tests.mean.holds and tests.variance.holds


def test_heavy_tails_are_not_gaussian():
    assert not test_filters(np.random.default_rng(0).laplace(size=(N, INPUTS, KERNEL))).gaussian.holds


def test_shifted_weights_have_no_zero_mean():
    tests = test_filters(gaussian() + 0.2)
    assert not tests.mean.holds
    assert tests.mean.effect == pytest.approx(0.2, abs=0.02)
    assert tests.gaussian.holds and tests.variance.holds


def test_a_shift_that_is_significant_and_small_holds():
    tests = test_filters(gaussian(shape=(128, 64, 9)) + 0.02)
    assert tests.mean.p < 0.001
    assert tests.mean.holds


def test_coordinates_of_different_scale_have_no_equal_variance():
    scale = np.linspace(0.7, 1.3, INPUTS * KERNEL).reshape(INPUTS, KERNEL)
    tests = test_filters(gaussian() * scale)
    assert not tests.variance.holds
    assert tests.variance.excess == pytest.approx(scale.std() / scale.mean(), rel=0.1)
    assert tests.variance.ratio > 1.5 * tests.variance.expected_ratio
    assert tests.mean.holds


def test_spread_of_equal_variances_is_what_sampling_gives():
    variance = test_filters(gaussian(shape=(128, 64, 9))).variance
    assert variance.spread == pytest.approx(variance.expected_spread, rel=0.1)
    assert variance.ratio == pytest.approx(variance.expected_ratio, rel=0.2)


def test_planted_blocks_are_found():
    shared_part = gaussian(1)[:, :, :1]  # one number a kernel
    tests = test_filters(np.sqrt(0.9) * gaussian() + np.sqrt(0.1) * shared_part)
    assert tests.blocks.found
    expected = math.sqrt(0.1**2 + tests.blocks.chance**2)
    assert tests.blocks.inside == pytest.approx(expected, rel=0.1)
    assert tests.blocks.outside == pytest.approx(tests.blocks.chance, rel=0.05)
    assert tests.blocks.energy > 1.3 * tests.blocks.pairs


def test_correlation_between_inputs_is_no_block():
    tests = test_filters(gaussian() + 0.5 * gaussian(1)[:, :1, :1])  # one number a filter
    assert not tests.blocks.found
    assert tests.blocks.outside > 1.2 * tests.blocks.chance


def test_levene_is_that_of_scipy():
    rows = gaussian()[:, :, 0] * np.linspace(0.9, 1.1, INPUTS)
    assert _levene(rows) == pytest.approx(stats.levene(*rows.T).pvalue, rel=1e-9)


def test_weights_of_a_model_are_tested_by_convolution():
    assert [(w.layer, w.filters, w.inputs, w.kernel) for w in plain_study().weights] == [
        ("conv1.weight", 64, 3, 9),
        ("conv2.weight", 64, 64, 9),
        ("conv3.weight", 64, 64, 9),
    ]
    assert all(w.gaussian.holds and w.mean.holds and w.variance.holds for w in plain_study().weights)
