"""Entropies of histograms, in bits, for the criteria that count activations in bins."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["counted", "entropy", "levels"]


def entropy(weights: Tensor) -> Tensor:
    """``-sum p log2 p`` over the last axis, ``p`` being the weights over their sum; 0 where the sum is 0."""
    total = weights.sum(-1, keepdim=True)
    shares = weights / torch.where(total > 0, total, torch.ones_like(total))
    return -torch.special.xlogy(shares, shares).sum(-1) / 0.6931471805599453


def levels(values: Tensor, low: Tensor, high: Tensor, count: int) -> Tensor:
    """Quantise to ``0 ... count - 1``, int64; `low` and `high` broadcast, what lies beyond goes to the ends.

    Where ``low == high`` everything is level 0.
    """
    span = high - low
    scaled = (values - low) / torch.where(span > 0, span, torch.ones_like(span)) * count
    return scaled.floor().clamp_(0, count - 1).long()


def counted(index: Tensor, size: int) -> Tensor:
    """Histogram over the last axis: ``[..., n]`` of numbers below `size` -> float64 ``[..., size]``."""
    rows = index.reshape(-1, index.shape[-1])
    offset = torch.arange(len(rows), device=index.device)[:, None] * size
    found = torch.bincount((rows + offset).ravel(), minlength=len(rows) * size)
    return found.double().reshape(*index.shape[:-1], size)
