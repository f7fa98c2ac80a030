"""Entropy of a channel's mean response (published: Luo & Wu, "An Entropy-based Pruning Method for CNN Compression", 2017)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fxprune.criteria.entropy import counted, entropy, levels
from fxprune.criteria.observing import ActivationCriterion, Sums
from fxprune.errors import InputError
from fxprune.statistics.maps import Maps

__all__ = ["GAPEntropy"]


class GAPEntropy(ActivationCriterion):
    """Entropy in bits, over images, of a channel's globally averaged activation: the same for all images, the less it tells.

    The bins are equal and span the range of the calibration images; later values beyond it go to the outer bins. (The
    number of bins, 100, is not in the part of the paper that was at hand.)

    Args:
        bins: of the histogram.
    """

    needs_range = True

    def __init__(self, *args: Any, bins: int = 100, **options: Any) -> None:
        super().__init__(*args, **options)
        if bins < 2:
            raise InputError(f"bins must be at least 2, not {bins}")
        self.bins = bins

    def ranged(self, maps: Maps) -> Tensor:
        return maps.values.flatten(2).mean(2).T

    def observe(self, maps: Maps) -> Sums:
        assert maps.low is not None and maps.high is not None
        index = levels(self.ranged(maps), maps.low[:, None], maps.high[:, None], self.bins)
        return {"counts": counted(index, self.bins)}

    def measure(self, sums: Sums) -> Tensor:
        return entropy(sums["counts"])
