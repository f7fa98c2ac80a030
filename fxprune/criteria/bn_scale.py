"""Batch-norm scale (Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017)."""

from __future__ import annotations

from torch import Tensor

from fxprune.criteria.base import Criterion, Tensors
from fxprune.criteria.magnitude import L2
from fxprune.groups import Group, Member

__all__ = ["BatchNormScale"]


class BatchNormScale(Criterion):
    """``|gamma|`` of the norms that scale a channel; a group that no norm scales falls back to the l2 norm."""

    roles = ("affine",)
    additive = False

    def entries(self, tensor: Tensor, member: Member) -> Tensor:
        return tensor.abs()

    def speaks(self, group: Group) -> list[Member]:
        return [m for m in group.members if m.role == "affine" and m.name.endswith("weight")]

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        scales = [m for m in self.speaks(group) if tensors[m.name].dim() == 1]
        if not scales:
            return L2(self.reduction, self.normalization)(group, tensors)
        return super().__call__(group, tensors)
