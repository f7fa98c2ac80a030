"""Random choices of what groups keep, from which a table is learnt: spread over the widths, some of them multiples."""

from __future__ import annotations

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group

__all__ = ["design", "gone_of"]

_MULTIPLES = (1, 8, 16, 1, 32, 4)  # in turn: kernels like some of them better than others
_SPREAD = 0.3  # of the shares that the groups of one design keep
_LEAST = 0.06
_OTHERWISE = 0.25  # of the groups of a design keep another multiple


def design(analysis: Analysis, number: int, seed: int = 0) -> np.ndarray:
    """What each free group keeps in one design: int array ``[groups]``. The same number gives the same design.

    Number 0 is the dense model. The mean shares of one design after the other are spread evenly (by the golden ratio), so that
    any number of designs covers all of them.
    """
    groups, random = analysis.free, np.random.default_rng([seed, number])
    sizes = np.array([group.size for group in groups], np.int64)
    if number == 0:
        return sizes
    middle = 0.15 + 0.85 * (number * 0.6180339887498949 % 1)
    shares = np.clip(middle + random.uniform(-_SPREAD, _SPREAD, len(groups)), _LEAST, 1)
    usual = _MULTIPLES[number % len(_MULTIPLES)]
    other = random.random(len(groups)) < _OTHERWISE  # kernels also depend on how neighbours are aligned
    multiples = np.where(other, random.choice(_MULTIPLES, len(groups)), usual)
    kept = np.array([_kept(*each) for each in zip(groups, shares, multiples.tolist(), strict=True)], np.int64)
    for place in _whole(analysis, random):
        kept[place] = sizes[place]
    return kept


def _kept(group: Group, share: float, multiple: int) -> int:
    step = multiple // np.gcd(multiple, group.multiplicity)
    wanted = max(1, round(group.size * share))
    return int(min(group.size, round(wanted / step) * step or wanted))


def _whole(analysis: Analysis, random: np.random.Generator) -> list[int]:
    """Of groups that exclude each other (`Analysis.exclusive`), those that stay whole."""
    places = {group.id: place for place, group in enumerate(analysis.free)}
    whole: set[str] = set()
    for name in random.permutation(sorted(analysis.exclusive)).tolist():
        if name not in whole:
            whole |= analysis.exclusive[name]
    return [places[name] for name in whole]


def gone_of(analysis: Analysis, kept: np.ndarray) -> dict[str, np.ndarray]:
    """The last channels of each group go: which ones makes no difference to the time."""
    pairs = zip(analysis.free, kept.tolist(), strict=True)
    return {group.id: np.arange(int(k), group.size) for group, k in pairs if k < group.size}
