"""Probability that batch norm and ReLU let a channel through (published: Kang & Han, "Operation-Aware Soft Channel Pruning
using Differentiable Masks" (SCP), ICML 2020, used here as a static criterion)."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.analysis.groups import Group
from fxprune.criteria.base import Criterion, Normalization, Tensors
from fxprune.criteria.magnitude import L2
from fxprune.statistics.norms import mean_over_entries, norms_of

__all__ = ["BatchNormReLU"]


class BatchNormReLU(Criterion):
    """``1 - Phi((tau - beta_c) / (|gamma_c| + 1e-8))``: the share of values after batch norm that exceed `tau`.

    What leaves a batch norm is about normal with mean beta and deviation |gamma|, so no data are needed. Scores are
    probabilities and compare between groups as they are. A group without a batch norm scores its l2 norms over
    their greatest.

    Args:
        tau: values up to this count as silent; 0.05 as published.
    """

    default_normalization: Normalization = "none"

    def __init__(self, *args: object, tau: float = 0.05, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.tau = tau

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        norms = [n for n in norms_of(group, tensors) if n.batch]
        if not norms:
            fallback = "max" if self.normalization == "none" else self.normalization
            return L2(self.reduction, fallback, self.consumers)(group, tensors)
        scores = []
        for norm in norms:
            scale, shift = norm.values(tensors)
            scores.append(mean_over_entries(torch.special.ndtr((shift - self.tau) / (scale.abs() + 1e-8))))
        return self.settle(scores)
