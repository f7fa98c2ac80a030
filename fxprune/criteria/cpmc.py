"""Weights, parameters and computation that go with a channel (reconstruction of Yan et al., "Channel Pruning via
Multi-Criteria based on Weight Dependency" (CPMC), arXiv 2011.03240, from its abstract)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.criteria.base import Criterion, Normalization, Tensors
from fxprune.errors import InputError
from fxprune.statistics.weights import channel_weights

__all__ = ["CPMC"]


class CPMC(Criterion):
    """``w_c / (lambda_p p_c + lambda_m m_c)``, each term over its maximum in the whole network.

    ``w_c`` is the l1 norm of all parameters that the channel owns: in the layers that produce it, biases included, in those
    that read it, and in its norms' scale and shift; ``p_c`` is the number of these parameters, and ``m_c`` that of the
    multiply-accumulates that go with it, its consumers' included.
    Removal is cheap where little weight goes with many parameters and much computation. Reconstruction: that the three
    aspects cover the filter and the next layer's slice, and are normalised over the network, is published; how they are
    combined is a choice made here. `reduction` and `consumers` have no effect: all members always add up.

    Args:
        parameters: ``lambda_p``.
        macs: ``lambda_m``.
    """

    needs_analysis = True
    default_normalization: Normalization = "none"

    def __init__(self, *args: Any, parameters: float = 1.0, macs: float = 1.0, **options: Any) -> None:
        super().__init__(*args, **options)
        if parameters < 0 or macs < 0 or parameters + macs == 0:
            raise InputError("the weights of parameters and macs must not be negative, nor both zero")
        self.lambdas = (parameters, macs)
        self._costs: dict[str, float] = {}
        self._parameters: frozenset[str] = frozenset()
        self._largest = 1.0

    def prepare(self, analysis: Analysis, tensors: Tensors) -> None:
        """Find the network-wide maxima and each group's cost; all channels of a group cost the same."""
        whole = analysis.cut()
        self._parameters = frozenset(analysis.parameter_names)
        costs = {}
        for group in analysis.free:
            cut = analysis.cut({group.id: [0]})
            costs[group.id] = (whole.params - cut.params, whole.total_macs - cut.total_macs)
        most = [max((c[i] for c in costs.values()), default=0) or 1 for i in (0, 1)]
        self._costs = {
            name: sum(weight * part / top for weight, part, top in zip(self.lambdas, cost, most, strict=True))
            for name, cost in costs.items()
        }
        self._largest = max((float(self._magnitude(g, tensors).max()) for g in analysis.free), default=0.0) or 1.0

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        if group.id not in self._costs:
            raise InputError(f"cpmc has not seen the network of group {group.id!r}: call fxprune.criteria.prepare first")
        tiny = torch.finfo(torch.float64).tiny
        return self.settle([self._magnitude(group, tensors) / self._largest / max(self._costs[group.id], tiny)])

    def _magnitude(self, group: Group, tensors: Tensors) -> Tensor:
        """l1 norm ``[channels]`` of the parameters that each channel owns; running statistics are none."""
        total = torch.zeros(group.size, dtype=torch.float64)
        for member in group.members:
            if member.name in self._parameters:
                total += channel_weights(tensors[member.name], member).abs().sum((1, 2)).double().cpu()
        return total
