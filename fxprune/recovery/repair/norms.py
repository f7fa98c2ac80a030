"""Batch norms: statistics of the values that they get, and what their running statistics should be."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from fxprune.recovery.repair.moments import widened

__all__ = ["BatchNorm", "NormMode", "Running", "Spread", "distance", "matched"]

NormMode = Literal["match", "recalibrate", "keep"]
Running = tuple[Tensor, Tensor]


class Spread:
    """Mean and variance ``[channels]`` of values ``[n, channels, ...]``; sums in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = self._square = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Add a batch."""
        rows = widened(values).movedim(1, 0).flatten(1)
        first = self.count == 0
        self._sum = rows.sum(1) + (0 if first else self._sum)
        self._square = (rows * rows).sum(1) + (0 if first else self._square)
        self.count += rows.shape[1]

    @property
    def mean(self) -> Tensor:
        return self._sum / self.count

    @property
    def var(self) -> Tensor:
        return (self._square / self.count - self.mean**2).clamp_min(0)

    @property
    def total(self) -> float:
        """Sum of squares around the mean."""
        return float((self.var * self.count).sum())

    @property
    def finite(self) -> bool:
        return self.count > 0 and bool(torch.isfinite(self._square).all())


def matched(dense: Spread, slim: Spread, running: Running, eps: float, mode: NormMode) -> Running:
    """Running mean and variance of a slim norm, in float64.

    ``"match"``: what leaves the norm has the mean and variance of the dense channel. With ``r = var_slim / var_dense``::

        var' + eps = (var + eps) r        mean' = mean_slim - (mean_dense - mean) sqrt(r)

    A channel that does not vary, in either model, is shifted to its dense mean, ``r = 1``. ``"recalibrate"``: mean and
    variance of what the slim norm gets.

    Args:
        dense, slim: of what each norm gets, in the channels that are kept.
        running: mean and variance that the dense norm has for these.
    """
    mean, var = running
    if mode == "recalibrate":
        return slim.mean, slim.var
    varies = (dense.var > eps * 1e-3) & (slim.var > eps * 1e-3)
    r = torch.where(varies, slim.var / dense.var.clamp_min(1e-300), torch.ones_like(var))
    return slim.mean - (dense.mean - mean) * r.sqrt(), ((var + eps) * r - eps).clamp_min(0)


def distance(norm: BatchNorm, dense: Spread, slim: Spread, running: Running, new: Running) -> float:
    """How far mean and deviation of what leaves a slim norm are from the dense channels', as a share of the dense ones'
    squared deviations.

    Args:
        running, new: mean and variance by which the dense norm, and the slim one, go.
    """
    weight = torch.ones_like(running[0]) if norm.weight is None else norm.weight.detach().double()
    then, now = (weight / (var + norm.eps).sqrt() for _, var in (running, new))
    shift = then * (dense.mean - running[0]) - now * (slim.mean - new[0])
    stretch = then.abs() * dense.var.sqrt() - now.abs() * slim.var.sqrt()
    return float((shift**2 + stretch**2).sum()) / max(float((then**2 * dense.var).sum()), 1e-300)
