"""How alike two rankings are, and how much two sets of pruned channels share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

__all__ = ["shared", "spearman"]


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None where all scores of one side are equal.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0]))
    0.5
    """
    a, b = (rankdata(s) - (len(s) + 1) / 2 for s in (first, second))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else None


def shared(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], sizes: Sequence[tuple[str, int]], within: bool
) -> tuple[float, float, float] | None:
    """Share, expected share and Jaccard index of two sets of channels ``{unit: channel numbers}``.

    The share is ``2 |A & B| / (|A| + |B|)``: ``|A & B| / |A|`` for sets of one size. The expected one is that of sets drawn at
    random with the same sizes: in each unit if `within`, else among all channels. None where both sets are empty.
    """
    nothing = np.zeros(0, np.int64)
    common, expected, counts = 0, 0.0, [0, 0]
    for name, size in sizes:
        a, b = (side.get(name, nothing) for side in (first, second))
        common += len(np.intersect1d(a, b))
        expected += len(a) * len(b) / size
        counts = [counts[0] + len(a), counts[1] + len(b)]
    if not within:
        expected = counts[0] * counts[1] / sum(size for _, size in sizes)
    total = sum(counts)
    if not total:
        return None
    return 2 * common / total, 2 * expected / total, common / (total - common)
