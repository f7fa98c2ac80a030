"""Norms of a channel's weights (published: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017)."""

from __future__ import annotations

from torch import Tensor

from fxprune.criteria.weights import WeightCriterion

__all__ = ["L1", "L2"]


class L1(WeightCriterion):
    """``sum |w|`` over a channel's slice ``[rows, K]`` of each producing weight.

    The paper ranks the filters of each layer by themselves, and sets the share of each layer by hand.
    """

    def score(self, weights: Tensor) -> Tensor:
        return weights.abs().sum((1, 2))


class L2(WeightCriterion):
    """``sqrt(sum w^2)`` over a channel's slice ``[rows, K]`` of each producing weight."""

    def score(self, weights: Tensor) -> Tensor:
        return weights.square().sum((1, 2)).sqrt()
