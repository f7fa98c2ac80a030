"""Weight times activation (after Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (Wanda),
ICLR 2024, which scores single weights)."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.criteria.observing import ActivationCriterion, Sums
from fxprune.statistics.maps import Maps
from fxprune.statistics.spot import Hook

__all__ = ["Wanda"]


class Wanda(ActivationCriterion):
    """``sum |W| * ||X_c||``: the weights that read a channel, times the root mean square of what they read.

    Summed over the outputs and the kernel of each convolution or linear layer that reads the channel (and over the entries
    that the channel occupies in a flattened map, each with its own norm). Reconstruction: the score of a weight is
    published; adding a channel's scores up is a choice made here.
    """

    default_hook: Hook = "consumer"

    def observe(self, maps: Maps) -> Sums:
        assert maps.weight is not None
        channels, entries = maps.spot.entries.shape
        values = maps.values.double().unflatten(2, (entries, -1))
        return {
            "squares": values.square().mean((3, 4, 5)).sum(0),
            "images": maps.images,
            "mass": maps.weight.double().abs().reshape(channels, entries, -1).sum(2),
            "batches": torch.ones((), dtype=torch.float64),
        }

    def measure(self, sums: Sums) -> Tensor:
        return (sums["mass"] / sums["batches"] * (sums["squares"] / sums["images"]).sqrt()).sum(1)
