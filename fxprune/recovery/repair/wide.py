"""The fit of layers with so many inputs that their Gram matrix is too large: from rows, made anew as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fxprune.recovery.repair.moments import Change

__all__ = ["Wide"]

Rows = Callable[[], Iterator[tuple[Tensor, Tensor]]]
_STEPS = 100  # of conjugate gradients
_SMALL = 1e-4  # what is left of the gradient when they end


class Wide:
    """What `Moments` is for other layers: of rows ``x [n, groups, inputs]`` and what they leave unexplained
    ``r [n, groups, outputs]``, all in float64.

    With no more rows than `most`, the ridge is solved in its dual form, ``X^T (X X^T + l I)^-1 R``, which needs a matrix as
    large as the rows are many; else by conjugate gradients, scaled by the diagonal. No matrix of inputs times inputs is made.

    Args:
        rows: gives the same rows, chunk by chunk, each time it is called.
        spread: sum of squares of what is to be explained, around its mean.
        bias, normed: as in `Moments`.
    """

    def __init__(self, rows: Rows, spread: float, bias: bool, normed: bool, most: int = 8192) -> None:
        self.rows, self.spread, self.bias, self.normed, self.most = rows, spread, bias, normed, most
        self.count, self.finite = 0, True
        self._x = self._r = self._xx = torch.zeros(())
        for x, r in rows():
            self._x, self._r = self._x + x.sum(0), self._r + r.sum(0)
            self._xx = self._xx + (x * x).sum(0)
            self.count += len(x)
            self.finite &= bool(torch.isfinite(x).all()) and bool(torch.isfinite(r).all())
        self.finite &= self.count > 0

    def solve(self, ridge: float) -> Change | None:
        """The same minimum as that of `Moments.solve`, but for what conjugate gradients leave."""
        n = max(self.count, 1)
        centred = self.bias or self.normed
        self._middle = self._x / n if centred else torch.zeros_like(self._x)
        self._rest = self._r / n if centred else torch.zeros_like(self._r)
        diagonal = (self._xx - n * self._middle**2).clamp_min(0)  # [groups, inputs]
        scale = diagonal.mean(1)
        scale = torch.where(scale > 0, scale * ridge, torch.ones_like(scale))
        weight = self._dual(scale) if self.count <= self.most else self._gradients(scale, diagonal)
        if weight is None or not bool(torch.isfinite(weight).all()):
            return None
        shift = (self._r - torch.einsum("gd,gdo->go", self._x, weight)) / n if self.bias else None
        return Change(weight, shift)

    def error(self, change: Change | None) -> float:
        """Sum of squares that a change leaves unexplained."""
        total = square = torch.zeros(())
        for x, r in self.rows():
            if change is not None:
                r = r - torch.einsum("ngd,gdo->ngo", x, change.weight)
                r = r if change.bias is None else r - change.bias
            total, square = total + r.sum(0), square + (r * r).sum(0)
        if self.normed:
            square = square - total**2 / max(self.count, 1)
        return float(square.clamp_min(0).sum())

    def _centred(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows ``[groups, n, ...]`` less their means."""
        for x, r in self.rows():
            yield (x - self._middle).transpose(0, 1), (r - self._rest).transpose(0, 1)

    def _dual(self, scale: Tensor) -> Tensor | None:
        kernel = torch.cat([torch.cat([x @ other.mT for other, _ in self._centred()], 2) for x, _ in self._centred()], 1)
        kernel.diagonal(dim1=1, dim2=2).add_(scale.unsqueeze(1))
        factor, failed = torch.linalg.cholesky_ex(kernel)
        if bool(failed.any()):
            return None
        shares = torch.cholesky_solve(torch.cat([r for _, r in self._centred()], 1), factor)
        weight, start = torch.zeros(()), 0
        for x, _ in self._centred():
            weight = weight + x.mT @ shares[:, start : start + x.shape[1]]
            start += x.shape[1]
        return weight

    def _gradients(self, scale: Tensor, diagonal: Tensor) -> Tensor:
        """Conjugate gradients for all outputs side by side; each stops by itself."""
        rest, zero = torch.zeros(()), torch.zeros(())
        for x, r in self._centred():
            rest = rest + x.mT @ r
        by = 1 / (diagonal + scale.unsqueeze(1)).unsqueeze(2)
        weight, step = torch.zeros_like(rest), by * rest
        length = (rest * step).sum(1, keepdim=True)
        end = length * _SMALL**2
        for _ in range(_STEPS):
            going = length > end
            if not bool(going.any()):
                break
            turned = scale.reshape(-1, 1, 1) * step
            for x, _ in self._centred():
                turned = turned + x.mT @ (x @ step)
            size = torch.where(going, length / (step * turned).sum(1, keepdim=True), zero)
            weight, rest = weight + size * step, rest - size * turned
            new = (by * rest * rest).sum(1, keepdim=True)
            step = by * rest + torch.where(going, new / length, zero) * step
            length = torch.where(going, new, zero)
        return weight
