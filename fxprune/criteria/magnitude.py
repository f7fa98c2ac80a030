"""Norms of a channel's weights (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017)."""

from __future__ import annotations

from torch import Tensor

from fxprune.criteria.base import Criterion, flatten_from
from fxprune.groups import Member

__all__ = ["L1", "L2"]


class L1(Criterion):
    """``sum |w|`` over a channel's slice of each producing weight."""

    def entries(self, tensor: Tensor, member: Member) -> Tensor:
        return flatten_from(tensor, member.axis).abs().float().sum(1)


class L2(Criterion):
    """``sqrt(sum w^2)`` over a channel's slice of each producing weight."""

    def entries(self, tensor: Tensor, member: Member) -> Tensor:
        return flatten_from(tensor, member.axis).float().square().sum(1)

    def settle(self, score: Tensor) -> Tensor:
        return score.sqrt()
