"""Share of activations that are not zero (published: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach
towards Efficient Deep Architectures", 2016)."""

from __future__ import annotations

from torch import Tensor

from fxprune.criteria.observing import ActivationCriterion, Sums
from fxprune.statistics.maps import Maps

__all__ = ["APoZ"]


class APoZ(ActivationCriterion):
    """``1 - APoZ``: the share of a channel's activations, over positions and images, that are not exactly zero.

    Says something after ReLU and its kin only: where nothing is ever zero, all channels score 1.
    """

    def observe(self, maps: Maps) -> Sums:
        alive = (maps.values != 0).double().flatten(2).mean(2).sum(0)
        return {"alive": alive, "images": maps.images}

    def measure(self, sums: Sums) -> Tensor:
        return sums["alive"] / sums["images"]
