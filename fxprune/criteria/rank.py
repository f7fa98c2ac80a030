"""Matrix rank and nuclear norm of feature maps (published: Lin et al., "HRank: Filter Pruning using High-Rank Feature Map",
CVPR 2020; Yeom et al., "Toward Compact Deep Neural Networks via Energy-Aware Pruning", 2021, for the nuclear norm)."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.criteria.observing import ActivationCriterion, Sums
from fxprune.statistics.maps import Maps

__all__ = ["HRank", "NuclearNorm"]


class HRank(ActivationCriterion):
    """Mean rank of a channel's H x W maps over images: one singular value decomposition a map.

    The rank counts singular values above ``max(H, W) * eps`` times the largest, eps of float32. A map of zeros has rank 0,
    any other constant map rank 1.
    """

    def observe(self, maps: Maps) -> Sums:
        ranks = torch.linalg.matrix_rank(maps.values.float()).double()
        return {"rank": ranks.mean(2).sum(0), "images": maps.images}

    def measure(self, sums: Sums) -> Tensor:
        return sums["rank"] / sums["images"]


class NuclearNorm(ActivationCriterion):
    """Mean nuclear norm (sum of singular values) of a channel's H x W maps over images."""

    def observe(self, maps: Maps) -> Sums:
        norms = torch.linalg.svdvals(maps.values).double().sum(-1)
        return {"norm": norms.mean(2).sum(0), "images": maps.images}

    def measure(self, sums: Sums) -> Tensor:
        return sums["norm"] / sums["images"]
