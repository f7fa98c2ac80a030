"""Confidence intervals: of shares, of the difference of two shares on the same samples, and of means."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

__all__ = ["bootstrap", "mcnemar", "paired_interval", "wilson"]

_STEPS = 80  # halvings of [-1, 1]: more than a double holds


def wilson(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share ``hits / count`` (Wilson, JASA 22, 1927):
    ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``.

    >>> low, high = wilson(50, 100)
    >>> f"{low:.4f} {high:.4f}"
    '0.4038 0.5962'
    """
    z, p = _quantile(confidence), hits / count
    middle, half = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    low, high = (middle - half) / scale, (middle + half) / scale
    return (0.0 if hits == 0 else low), (1.0 if hits == count else high)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value that two models are right equally often, on samples that both saw (McNemar, Psychometrika 12, 1947),
    exact: of those that one alone is right on, each is as likely to be either's.

    >>> mcnemar(1, 7)
    0.0703125

    Args:
        gained, lost: samples on which the second model alone is right, and the first alone.
    """
    total = gained + lost
    return min(1.0, 2.0 * float(stats.binom.cdf(min(gained, lost), total, 0.5))) if total else 1.0


def paired_interval(gained: int, lost: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of the difference ``(gained - lost) / count`` of two shares on the same samples (Tango, Statistics
    in Medicine 17, 1998): all ``d`` with ``|gained - lost - n d| <= z sqrt(n (2 q(d) + d (1 - d)))``, where ``q(d)`` is the
    likeliest share of samples that the first model alone is right on if the difference is ``d``: with
    ``B = (2n - gained + lost) d - gained - lost``, ``q(d) = (sqrt(B^2 + 8 n lost d (1 - d)) - B) / 4n``.

    At ``d = 0`` that is McNemar's statistic. It holds where few samples differ, or none do.

    >>> low, high = paired_interval(1, 7, 21)
    >>> f"{low:.4f} {high:.4f}"
    '-0.5172 -0.0260'
    """
    z, found = _quantile(confidence), (gained - lost) / count

    def outside(d: float, sign: int) -> bool:
        b = (2 * count - gained + lost) * d - gained - lost
        q = (math.sqrt(max(b * b + 8 * count * lost * d * (1 - d), 0.0)) - b) / (4 * count)
        return sign * (gained - lost - count * d) > z * math.sqrt(max(count * (2 * q + d * (1 - d)), 0.0))

    limits = []
    for sign, far in ((1, -1.0), (-1, 1.0)):
        near = found
        for _ in range(_STEPS):
            middle = (near + far) / 2
            near, far = (near, middle) if outside(middle, sign) else (middle, far)
        limits.append(near)
    return limits[0], limits[1]


def bootstrap(values: np.ndarray, confidence: float = 0.95, seed: int = 0, draws: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of the means of columns that were measured on the same samples (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13): each draw takes whole rows, so that what is paired stays so.

    Args:
        values: ``[samples, columns]``.

    Returns:
        The lower and the upper limits, ``[columns]`` each.
    """
    generator, count = np.random.default_rng(seed), len(values)
    means = np.stack([values[generator.integers(0, count, count)].mean(0) for _ in range(draws)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail), axis=0)
    return low, high


def _quantile(confidence: float) -> float:
    return float(stats.norm.ppf((1 + confidence) / 2))
