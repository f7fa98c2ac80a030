"""Sharing and attention, and an operator that nothing may leave."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grammar.base import Piece, step


@step("twice")
class Twice(Piece):
    def make(self, c: int) -> None:
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return self.conv(torch.tanh(self.conv(x)))


@step("tied", lambda s: s.channels <= 12)
class Tied(Piece):
    def make(self, c: int) -> None:
        width = self.shape.width(self.a) if self.a % 5 < 4 else c
        self.conv1, self.conv2 = nn.Conv2d(c, width, 1), nn.Conv2d(c, width, 1)
        self.conv2.weight = self.conv1.weight

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        a, b = self.conv1(x), self.conv2(torch.sigmoid(x))
        return torch.cat([a, b], 1) if self.b % 2 else a * b


@step("attention", lambda s: s.size <= 6)
class Attention(Piece):
    """Over the places of the map, with 2 to 4 heads; qkv fused or separate, products written out or not."""

    def make(self, c: int) -> None:
        self.heads, self.dim = 2 + self.a % 3, 2 + self.a % 4
        inner = self.heads * self.dim
        if self.b % 2:
            self.qkv = nn.Linear(c, 3 * inner)
        else:
            self.q, self.k, self.v = nn.Linear(c, inner), nn.Linear(c, inner), nn.Linear(c, inner)
        self.norm = nn.LayerNorm(c) if self.b % 3 == 0 else nn.Identity()
        self.proj = nn.Linear(inner, c)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        batch, channels, height, width = x.shape
        y = self.norm(x.flatten(2).transpose(1, 2))
        if self.b % 2:
            q, k, v = self.qkv(y).reshape(batch, -1, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (f(y).view(batch, -1, self.heads, self.dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.b % 4 < 2:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * self.dim**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(batch, height * width, self.heads * self.dim))
        return x + y.transpose(1, 2).reshape(batch, channels, height, width)


@step("mlp")
class Mlp(Piece):
    """Channels last, a hidden layer (gated, in half of the cases), and a layer scale."""

    def make(self, c: int) -> None:
        hidden = 6 + self.a % 5
        self.fc1 = nn.Linear(c, 2 * hidden if self.b % 2 else hidden)
        self.fc2 = nn.Linear(hidden, c)
        self.gamma = nn.Parameter(torch.ones(c))

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        y = self.fc1(x.permute(0, 2, 3, 1))
        if self.b % 2:
            value, gate = y.chunk(2, -1)
            y = value * F.silu(gate)
        else:
            y = F.gelu(y)
        return x + (self.fc2(y) * self.gamma).permute(0, 3, 1, 2)


@step("frozen")
class Frozen(Piece):
    """An operator over channels that none may leave."""

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return x.roll(1, 1) if self.a % 2 else x + x.cumsum(1)
