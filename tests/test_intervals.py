"""Intervals: the published formulas, other people's figures, and what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fxprune.recovery.intervals import bootstrap, mcnemar, paired_interval, wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (7, 7), (1, 2), (81, 263), (9000, 10000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_is_scipys(hits: int, count: int, confidence: float) -> None:
    theirs = stats.binomtest(hits, count).proportion_ci(confidence, method="wilson")
    assert wilson(hits, count, confidence) == pytest.approx(tuple(theirs), abs=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 5), (3, 3), (7, 1), (150, 86)])
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected)


def quartic(d: float, gained: int, lost: int, n: int, confidence: float) -> float:
    """The polynomial whose roots are Tango's limits (Yang, Sun and Hardin, Statistics in Medicine 32, 2013), scaled to 1."""
    g = stats.norm.ppf((1 + confidence) / 2) ** 2
    e, s = gained - lost, gained + lost
    terms = (
        n**2 * (n / g + 1) ** 2,
        -n * e * (n / g + 1) * (4 * n / g + 1),
        2 * n * e**2 * (3 * n / g + 2) / g - n**2 * (s / g + 1),
        n * e * (2 * s / g + 1) - e**3 * (4 * n / g + 1) / g,
        e**2 * (e**2 / g - s) / g,
    )
    return sum(t * d ** (4 - i) for i, t in enumerate(terms)) / sum(abs(t) for t in terms)


@pytest.mark.parametrize(
    ("gained", "lost", "count"), [(1, 7, 21), (12, 2, 50), (0, 0, 40), (5, 0, 9), (0, 9, 9), (150, 86, 1600)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_paired_limits_are_roots_of_the_published_polynomial(gained: int, lost: int, count: int, confidence: float) -> None:
    low, high = paired_interval(gained, lost, count, confidence)
    assert -1 <= low <= (gained - lost) / count <= high <= 1 and low < high
    for limit in (low, high):
        if abs(limit) < 1:
            assert quartic(limit, gained, lost, count, confidence) == pytest.approx(0, abs=1e-9)
    assert paired_interval(lost, gained, count, confidence) == pytest.approx((-high, -low), abs=1e-9)


def test_paired_interval_as_published() -> None:
    """Fagerland, Lydersen and Laake (BMC Medical Research Methodology 14, 2014): 1 and 7 of 21 differ."""
    assert paired_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_paired_interval_and_mcnemars_statistic_agree() -> None:
    z = stats.norm.ppf(0.975)
    for gained, lost in ((10, 20), (9, 22), (30, 45), (28, 47)):
        low, high = paired_interval(gained, lost, 400)
        assert (low <= 0 <= high) == (abs(gained - lost) / math.sqrt(gained + lost) <= z)


def test_paired_interval_covers() -> None:
    """Over all outcomes of 30 samples, of which one model alone is right on a tenth and the other on a fifth."""
    n, p, q = 30, 0.1, 0.2
    covered = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            chance = stats.multinomial.pmf([gained, lost, n - gained - lost], n, [p, q, 1 - p - q])
            if chance > 1e-6:
                low, high = paired_interval(gained, lost, n)
                covered += chance * (low <= p - q <= high)
    assert 0.93 < covered < 0.97


def test_bootstrap_is_near_the_normal_interval_and_keeps_pairs() -> None:
    rng = np.random.default_rng(1)
    values = rng.exponential(size=(400, 1)) * [1.0, 1.0]
    low, high = bootstrap(np.column_stack([values, values[:, 1] - values[:, 0]]), 0.9)
    half = 1.645 * values[:, 0].std() / 20
    assert low[0] == pytest.approx(values[:, 0].mean() - half, abs=0.1 * half)
    assert high[0] == pytest.approx(values[:, 0].mean() + half, abs=0.2 * half)
    assert low[2] == high[2] == 0  # the same columns never differ
    again = bootstrap(values, 0.9)[0]
    assert (again == bootstrap(values, 0.9)[0]).all() and (again != bootstrap(values, 0.9, seed=1)[0]).any()
