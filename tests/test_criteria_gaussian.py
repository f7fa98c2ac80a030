"""Closed forms for Gaussian filters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from support.weights import scores


def gaussian_filters(count: int, size: int, draws: int) -> list[dict[str, np.ndarray]]:
    found = []
    for _ in range(draws):
        weight = torch.randn(count, size)
        found.append({n: scores(n, weight).numpy() for n in ("l1", "l2", "fermat", "fpgm")})
    return found


@pytest.mark.parametrize(
    ("count", "size", "draws", "spearman", "variation"),
    [
        (16, 27, 60, (0.92, 0.90, 0.995), (14.6, 13.7, 14.2, 6.6)),
        (64, 576, 20, (0.93, 0.98, 1.00), (3.3, 3.1, 3.1, 1.5)),
        (256, 2304, 3, (0.93, 0.996, 1.00), (1.6, 1.5, 1.5, 0.74)),
    ],
)
def test_both_blind_spots_follow_from_gaussian_filters(
    count: int, size: int, draws: int, spearman: tuple[float, ...], variation: tuple[float, ...]
) -> None:
    """Rank correlations above 0.9, and scores within about 1 % of each other in wide layers."""
    found = gaussian_filters(count, size, draws)
    pairs = (("l1", "l2"), ("l2", "fermat"), ("fermat", "fpgm"))
    for (a, b), expected in zip(pairs, spearman, strict=True):
        assert np.mean([spearmanr(f[a], f[b]).statistic for f in found]) == pytest.approx(expected, abs=0.02)
    for name, expected in zip(("l1", "l2", "fermat", "fpgm"), variation, strict=True):
        assert np.mean([100 * f[name].std(ddof=1) / f[name].mean() for f in found]) == pytest.approx(expected, rel=0.12)


def test_closed_forms_of_the_norms() -> None:
    size = 512
    weight = torch.randn(4000, size)
    l1, l2 = scores("l1", weight).numpy(), scores("l2", weight).numpy()
    correlation = math.sqrt(2 / math.pi) / math.sqrt(2 * (1 - 2 / math.pi))
    assert np.corrcoef(l1, l2**2)[0, 1] == pytest.approx(correlation, abs=0.01)
    assert l1.std() / l1.mean() == pytest.approx(math.sqrt((math.pi / 2 - 1) / size), rel=0.05)
    assert l2.std() / l2.mean() == pytest.approx(1 / math.sqrt(2 * size), rel=0.05)


def test_globally_l1_grows_with_width_and_l2_does_not() -> None:
    """With He-scaled weights, so a global ranking by l1 empties narrow layers first."""
    sizes = (144, 2304)
    l1, l2 = ([float(scores(n, torch.randn(64, s) * (2 / s) ** 0.5).mean()) for s in sizes] for n in ("l1", "l2"))
    assert l1[1] / l1[0] == pytest.approx(math.sqrt(sizes[1] / sizes[0]), rel=0.05)
    assert l2[1] / l2[0] == pytest.approx(1.0, rel=0.05)
