"""Sums over rows that determine a least-squares fit, and the error of any fit: their size does not grow with the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Change", "Moments", "Rows", "widened"]


def widened(values: Tensor) -> Tensor:
    """In float64, on the CPU where their device has none."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


@dataclass(frozen=True)
class Change:
    """What is added to the weights ``[groups, inputs, outputs]`` and to the bias ``[groups, outputs]``."""

    weight: Tensor
    bias: Tensor | None


class Rows(NamedTuple):
    """What a layer does at some positions of a chunk of images, ``[n, groups, ...]``, in float64.

    Attributes:
        chunk: its number.
        cut: cuts ``x`` out anew, until the walk goes on.
        x: what it reads.
        rest: what it leaves unexplained of `wanted`.
        wanted: what it should put out.
        other: what is added to that, by a norm and a residual stream, once it is scaled.
    """

    chunk: int
    cut: Callable[[], Tensor]
    x: Tensor
    rest: Tensor
    wanted: Tensor
    other: Tensor


class Moments:
    """Of rows ``x [n, groups, inputs]``, what they leave unexplained ``r [n, groups, outputs]``, and what is to be explained
    ``y`` of the same shape. All sums are in float64.

    Args:
        bias: the layer has one, which takes a mean of ``r``.
        normed: the norm that follows takes it, so that it costs nothing.
    """

    def __init__(self, bias: bool, normed: bool) -> None:
        self.bias, self.normed, self.count = bias, normed, 0
        self._known: Any = None
        self.x = self.r = self.y = self.xx = self.xr = self.rr = self.yy = torch.zeros(())

    def add(self, x: Tensor, r: Tensor, y: Tensor) -> None:
        """Add some rows."""
        self._known = None
        x, r, y = (widened(v).transpose(0, 1) for v in (x, r, y))  # [groups, n, ...]
        new = (x.sum(1), r.sum(1), y.sum(1), x.mT @ x, x.mT @ r, (r * r).sum(1), (y * y).sum(1))
        old = (self.x, self.r, self.y, self.xx, self.xr, self.rr, self.yy)
        self.x, self.r, self.y, self.xx, self.xr, self.rr, self.yy = (
            (a + b) if self.count else b for a, b in zip(old, new, strict=True)
        )
        self.count += x.shape[1]

    @property
    def finite(self) -> bool:
        """Whether there are rows, and all their values are finite."""
        sums = (self.xx, self.xr, self.rr, self.yy)
        return self.count > 0 and all(bool(torch.isfinite(v).all()) for v in sums)

    @property
    def spread(self) -> float:
        """Sum of squares of ``y`` around its mean."""
        return float((self.yy - self.y**2 / max(self.count, 1)).clamp_min(0).sum())

    def solve(self, ridge: float) -> Change | None:
        """Ridge towards no change: ``(G + ridge * mean(diag G) I)^-1 X^T R`` with ``G = X^T X``, of centred ``X`` and ``R``
        where somebody takes the mean, and ``mean(r) - mean(x) W`` for the bias; None where numbers do not suffice for it.
        """
        found = self.refit(ridge, self.xr, self.r)
        return found if found is None or self.bias else Change(found.weight, None)

    def refit(self, ridge: float, xr: Tensor, r: Tensor) -> Change | None:
        """`solve` for other sums of ``x^T r`` and ``r``, with a bias also where it is the norm that takes it."""
        n = max(self.count, 1)
        centred = self.bias or self.normed
        product = xr - self.x.unsqueeze(2) * r.unsqueeze(1) / n if centred else xr
        factor = self._factor(ridge, centred)
        if factor is None:
            return None
        weight = torch.cholesky_solve(product, factor)
        if not bool(torch.isfinite(weight).all()):
            return None
        return Change(weight, (r - torch.einsum("gd,gdo->go", self.x, weight)) / n if centred else None)

    def _factor(self, ridge: float, centred: bool) -> Tensor | None:
        """Of the Gram matrix with what is added to its diagonal; computed once."""
        if self._known is None:
            gram = self.xx - self.x.unsqueeze(2) * self.x.unsqueeze(1) / max(self.count, 1) if centred else self.xx
            diagonal = gram.diagonal(dim1=1, dim2=2)
            scale = diagonal.mean(1)
            scale = torch.where(scale > 0, scale * ridge, torch.ones_like(scale))  # inputs that are always zero
            self._known = torch.linalg.cholesky_ex(gram + torch.diag_embed(scale.unsqueeze(1).expand_as(diagonal)))
        factor, failed = self._known
        return None if bool(failed.any()) else factor

    def error(self, change: Change | None) -> float:
        """Sum of squares that a change leaves unexplained."""
        total, mean = self.rr, self.r
        n = max(self.count, 1)
        if change is not None:
            w = change.weight
            total = total - 2 * (w * self.xr).sum(1) + (w * (self.xx @ w)).sum(1)
            mean = mean - torch.einsum("gd,gdo->go", self.x, w)
            if change.bias is not None:
                total = total - 2 * change.bias * mean + n * change.bias**2
                mean = mean - n * change.bias
        if self.normed:
            total = total - mean**2 / n
        return float(total.clamp_min(0).sum())
