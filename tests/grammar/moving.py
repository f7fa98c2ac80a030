"""Moving entries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from grammar.base import WIDEST, Piece, narrow, step


@step("shuffle", lambda s: s.divisor(0) > 1)
class Shuffle(Piece):
    def make(self, c: int) -> None:
        self.groups = self.shape.divisor(self.a)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        if self.b % 2:
            return F.channel_shuffle(x, self.groups)
        b, c, h, w = x.shape
        return x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


@step("flip")
class Flip(Piece):
    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return x.flip(1) if self.a % 2 else x + x.flip(1)


@step("permute")
class Permute(Piece):
    def make(self, c: int) -> None:
        order = torch.randperm(c, generator=torch.Generator().manual_seed(self.a))
        self.register_buffer("order", order[: max(2, c - self.b % 3)])

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return x[:, self.order]


@step("repeat", narrow)
class Repeat(Piece):
    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return x.repeat(1, 2, 1, 1) if self.a % 2 else x.repeat_interleave(2, dim=1)


@step("pixels")
class Pixels(Piece):
    """Pixel shuffle where the channels allow it, else its inverse where the map allows it."""

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        s = self.shape
        if s.channels % 4 == 0 and s.channels >= 8 and s.size <= 6 and self.a % 2:
            return F.pixel_shuffle(x, 2)
        if s.size % 2 == 0 and 4 * s.channels <= WIDEST:
            return F.pixel_unshuffle(x, 2)
        return x


@step("fold", lambda s: s.divisor(0) > 1 and s.channels >= 8)
class Fold(Piece):
    """Sums the rows of an unflattened channel axis."""

    def make(self, c: int) -> None:
        self.rows = self.shape.divisor(self.a, c // 4)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        y = x.unflatten(1, (self.rows, self.shape.channels // self.rows))
        return y.sum(1) if self.b % 2 else y[:, 0] * y[:, -1].sigmoid()
