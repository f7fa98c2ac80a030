"""A fit through the rectifier that follows a layer: what is cut off in both models need not be alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fxprune.recovery.repair.chunks import held_back
from fxprune.recovery.repair.moments import Change, Moments, Rows, widened
from fxprune.recovery.repair.tails import Bounds, inverted

__all__ = ["Rectifier"]

_KEPT = 2**28  # bytes of rows that are kept from step to step; more are made anew
Again = Callable[[], Iterator[Rows]]


@dataclass(frozen=True, eq=False)
class Rectifier:
    """``clamp(slope y + other, low, high)`` of a layer's output ``y [n, groups, outputs]``.

    With ``p`` what the slim layer and ``P`` what the dense one puts before the clamp, the fit makes least::

        sum  (p - P)^2                  where low < P < high
             max(p - low, 0)^2          where P <= low
             max(high - p, 0)^2         where P >= high

    which bounds the squared difference behind the clamp from above, and is convex in the weights. Each step replaces it by a
    sum of squares that touches it from above, ``(y - target)^2``: the least squares without a rectifier, of another target.
    Reconstruction behind the nonlinearity, with the inputs that the slim layer gets: Zhang et al., "Accelerating Very Deep
    Convolutional Networks for Classification and Detection", TPAMI 2016, sections 3.2 and 3.3 (there by alternating with an
    auxiliary variable).

    Args:
        slope: ``[groups, outputs]``.
        bounds: low and high.
    """

    slope: Tensor
    bounds: Bounds

    def target(self, found: Tensor, wanted: Tensor, other: Tensor) -> Tensor:
        """What ``y`` is to be.

        Args:
            found: what it is now.
            wanted: what it should be without the clamp, so that ``P = slope wanted + other``.
            other: what is added to ``slope y``.
        """
        low, high = self.bounds
        slope = self.slope.to(wanted.dtype)
        by = inverted(slope.flatten()).view_as(slope)
        dense, slim = slope * wanted + other, slope * found + other
        target = wanted
        for end, past, cut in ((low, slim <= low, dense <= low), (high, slim >= high, dense >= high)):
            if math.isfinite(end):
                there = torch.where(past, found, torch.where(by != 0, (end - other) * by, wanted))
                target = torch.where(cut, there, target)
        return target

    def fit(self, again: Again, moments: Moments, ridge: float, steps: int) -> Change | None:
        """Some steps from the fit without a rectifier; None where numbers do not suffice for one.

        Args:
            again: gives all rows, the same each time.
            moments: of those that are learned from.
        """
        change = moments.refit(ridge, moments.xr, moments.r)
        small = moments.count * moments.xr.shape[0] * moments.xr.shape[1] * 4 <= _KEPT
        kept = [_Part.of(rows) for rows in again() if not held_back(rows.chunk)] if small else []
        for _ in range(steps):
            if change is None:
                return None
            product, total = moments.xr.clone(), moments.r.clone()
            for part in kept or (_Part.of(rows) for rows in again() if not held_back(rows.chunk)):
                more = self.target(part.changed(change), part.wanted, part.other) - part.wanted
                product += widened(part.x.mT @ more.transpose(0, 1))
                total += widened(more).sum(0)
            change = moments.refit(ridge, product, total)
        return change

    def errors(self, again: Again, change: Change) -> tuple[float, float]:
        """Without and with a change: squared difference behind the rectifier on images that are held back, as a share of the
        variance there."""
        wrong, count = [0.0, 0.0], 0
        total = square = torch.zeros(())
        for rows in again():
            if held_back(rows.chunk):
                wanted, *found = (
                    (self.slope * y + rows.other).clamp(*self.bounds)
                    for y in (rows.wanted, rows.wanted - rows.rest, _changed(rows, change))
                )
                wrong = [w + float((f - wanted).square().sum()) for w, f in zip(wrong, found, strict=True)]
                total, square, count = total + wanted.sum(0), square + wanted.square().sum(0), count + len(wanted)
        spread = float((square - total**2 / max(count, 1)).clamp_min(0).sum())
        before, after = (w / max(spread, 1e-300) for w in wrong)
        return before, after


class _Part(NamedTuple):
    """Rows in float32, which suffices for the targets: what is cut off and what is not. Inputs are ``[groups, n, inputs]``."""

    x: Tensor
    now: Tensor
    wanted: Tensor
    other: Tensor

    @classmethod
    def of(cls, rows: Rows) -> _Part:
        now = rows.wanted - rows.rest
        return cls(rows.x.transpose(0, 1).float(), *(v.float() for v in (now, rows.wanted, rows.other)))

    def changed(self, change: Change) -> Tensor:
        """What the layer puts out with changed weights."""
        found = self.now + (self.x @ change.weight.float()).transpose(0, 1)
        return found if change.bias is None else found + change.bias.float()


def _changed(rows: Rows, change: Change) -> Tensor:
    """What a layer puts out with changed weights."""
    found = rows.wanted - rows.rest + torch.einsum("ngd,gdo->ngo", rows.x, change.weight)
    return found if change.bias is None else found + change.bias
