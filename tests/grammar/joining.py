"""Joining and taking apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grammar.base import WIDEST, Piece, narrow, step


@step("add", lambda s: len(s.past) > 1)
class Add(Piece):
    """Adds an earlier value of the same height, through a convolution if its width differs."""

    def make(self, c: int) -> None:
        self.other = self.shape.earlier(self.a)
        width = self.shape.past[self.other][0] if self.other is not None else c
        self.conv = nn.Conv2d(width, c, 1) if width != c or self.b % 3 == 1 else nn.Identity()

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        if self.other is None:
            return x + 1.0
        return x + self.conv([*past, x][self.other])


@step("cat", narrow)
class Cat(Piece):
    """Concatenates an earlier value of the same height, or the value with itself."""

    def make(self, c: int) -> None:
        other = self.shape.earlier(self.a)
        fits = other is not None and self.shape.past[other][0] + c <= WIDEST
        self.other = other if fits and self.b % 3 else None

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return torch.cat([x, x if self.other is None else [*past, x][self.other]], 1)


@step("split", lambda s: s.channels >= 4)
class Split(Piece):
    """Cuts in two or three, treats the parts differently, and joins them in another order."""

    def make(self, c: int) -> None:
        low = 1 + self.a % (c // 2 - 1) if c > 4 else 2
        self.sizes = [low, c - low] if self.b % 2 else [low, 1, c - low - 1]
        self.conv = nn.Conv2d(self.sizes[-1], 6, 3, padding=1)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        *first, last = x.split(self.sizes, dim=1)
        return torch.cat([self.conv(last), *(torch.relu(part) for part in first)], 1)


@step("slice", lambda s: s.channels >= 4)
class Slice(Piece):
    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        c = self.shape.channels
        start = self.a % (c // 2)
        if self.b % 3 == 0:
            return x[:, start:]
        if self.b % 3 == 1:
            return x[:, start : c - 1]
        return x[:, : c // 2 * 2 : 2] + x[:, 1::2]


@step("assign", lambda s: s.channels >= 4)
class Assign(Piece):
    """Writes part of a copy in place."""

    def make(self, c: int) -> None:
        self.start = self.a % (c // 2)
        self.conv = nn.Conv2d(c, c // 2, 1)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        y = x.clone()
        part = slice(self.start, self.start + self.shape.channels // 2)
        if self.b % 2:
            y[:, part] = self.conv(x)
        else:
            y[:, part] += self.conv(x)
        return y


@step("glu", lambda s: s.channels % 2 == 0 and s.channels >= 8)
class Glu(Piece):
    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        if self.a % 2:
            return F.glu(x, dim=1)
        a, b = x.chunk(2, dim=1)
        return F.gelu(a) * b


@step("pad", lambda s: s.channels + 6 <= WIDEST)
class Pad(Piece):
    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, self.a % 4, self.b % 3))


@step("stack", narrow)
class Stack(Piece):
    def make(self, c: int) -> None:
        self.conv = nn.Conv2d(c, c, 1)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return torch.stack([x, self.conv(x)], 1 + self.a % 2).flatten(1, 2)
