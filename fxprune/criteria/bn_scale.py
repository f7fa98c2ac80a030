"""Batch-norm scale (published: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017)."""

from __future__ import annotations

from torch import Tensor

from fxprune.analysis.groups import Group
from fxprune.criteria.base import Criterion, Tensors
from fxprune.criteria.magnitude import L2
from fxprune.statistics.norms import mean_over_entries, norms_of

__all__ = ["BatchNormScale"]


class BatchNormScale(Criterion):
    """``|gamma_c|`` of the norms that scale a channel: batch norms, and other norms where there is no batch norm.

    The paper compares scales of all layers as they are, by one threshold (``normalization="none"``), after training with a
    penalty that makes them comparable. A group without a norm scores the l2 norm of its weights under the same reduction
    and normalisation.
    """

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        norms = norms_of(group, tensors)
        if not norms:
            return L2(self.reduction, self.normalization, self.consumers)(group, tensors)
        return self.settle([mean_over_entries(n.values(tensors)[0].abs()) for n in norms])
