"""Information entropy of feature maps (after Liu et al., IET Image Processing 2022, doi 10.1049/ipr2.12338: "SFM")."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from fxprune.criteria.entropy import counted, entropy, levels
from fxprune.criteria.observing import ActivationCriterion, Sums
from fxprune.errors import InputError
from fxprune.statistics.maps import Maps

__all__ = ["SFM", "SFMSoftmax"]

_ENTRIES = 1 << 24  # of the histograms that are held at once


class SFM(ActivationCriterion):
    """Mean over images of the entropy (bits) of a channel's map, quantised to 256 levels between its own extremes.

    Reconstruction: that filters whose maps have little information entropy go is published; the estimator is a choice made
    here. A constant map has entropy 0. Two more estimators: `SFMSoftmax`, and the criterion ``gap_entropy``.

    Args:
        levels: of the quantisation.
    """

    def __init__(self, *args: Any, levels: int = 256, **options: Any) -> None:
        super().__init__(*args, **options)
        if levels < 2:
            raise InputError(f"levels must be at least 2, not {levels}")
        self.levels = levels

    def observe(self, maps: Maps) -> Sums:
        total = maps.values.new_zeros(maps.values.shape[1]).double()
        images = maps.values.flatten(3)
        for part in images.split(max(1, _ENTRIES // (self.levels * images.shape[1] * images.shape[2]))):
            low, high = part.aminmax(dim=-1, keepdim=True)
            total += entropy(counted(levels(part, low, high, self.levels), self.levels)).mean(2).sum(0)
        return {"entropy": total, "images": maps.images}

    def measure(self, sums: Sums) -> Tensor:
        return sums["entropy"] / sums["images"]


class SFMSoftmax(ActivationCriterion):
    """Mean over images of ``log2(H W) + sum p log2 p``, ``p`` the softmax over positions of ``(F - mean F)^2``.

    Published: Shao et al., Sensors 21:6601, 2021. Their code (github.com/pinery-sls/filter_pruning) observes the output of
    batch norms, takes the natural logarithm, scales each layer's entropies to [0, 1] and removes the *highest* of all. That
    of a constant map is the highest there is, ``log2(H W)``: flat maps go. The score is how far the entropy stays below
    it, so a constant map scores 0.
    """

    default_hook = "norm"

    def observe(self, maps: Maps) -> Sums:
        values = maps.values.flatten(3).double()
        shares = (values - values.mean(-1, keepdim=True)).square().softmax(-1)
        missing = (math.log2(shares.shape[-1]) - entropy(shares)).clamp_min(0)  # below zero by rounding alone
        return {"missing": missing.mean(2).sum(0), "images": maps.images}

    def measure(self, sums: Sums) -> Tensor:
        return sums["missing"] / sums["images"]
