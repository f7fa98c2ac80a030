"""Layers, norms, activations, gates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grammar.base import WIDEST, Piece, narrow, step


@step("conv")
class Conv(Piece):
    def make(self, c: int) -> None:
        kernel = 1 if self.b % 2 else 3
        self.conv = nn.Conv2d(c, self.shape.width(self.a), kernel, padding=kernel // 2, bias=self.b % 4 < 2)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return self.conv(x)


@step("grouped", lambda s: s.divisor(0) > 1)
class Grouped(Piece):
    def make(self, c: int) -> None:
        groups = self.shape.divisor(self.a, 8)
        self.conv = nn.Conv2d(c, min(groups * (1 + self.b % 3), WIDEST), 3, padding=1, groups=groups)
        if self.conv.out_channels % groups:
            raise AssertionError("a grouped convolution of uneven groups")

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return self.conv(x)


@step("depthwise")
class Depthwise(Piece):
    def make(self, c: int) -> None:
        times = 2 if self.a % 2 and narrow(self.shape) else 1
        self.conv = nn.Conv2d(c, times * c, 3, padding=1, groups=c)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return self.conv(x)


@step("transposed", lambda s: s.size <= 6)
class Transposed(Piece):
    def make(self, c: int) -> None:
        groups = self.shape.divisor(self.b, 4) if self.b % 2 else 1
        wide = self.shape.width(self.a) if groups == 1 else c
        self.conv = nn.ConvTranspose2d(c, wide, 2, stride=2, groups=groups)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return self.conv(x)


@step("pool", lambda s: s.size >= 2 and s.size % 2 == 0)
class Pool(Piece):
    def make(self, c: int) -> None:
        self.pool = nn.AvgPool2d(2) if self.a % 2 else nn.MaxPool2d(2)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return self.pool(x)


@step("norm")
class Norm(Piece):
    def make(self, c: int) -> None:
        self.kind = self.a % 4
        if self.kind == 0:
            self.norm: nn.Module = nn.BatchNorm2d(c)
        elif self.kind == 1:
            self.norm = nn.GroupNorm(self.shape.divisor(self.b), c)
        elif self.kind == 2:
            self.norm = nn.GroupNorm(1, c)
        else:
            self.norm = nn.LayerNorm(c)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        if self.kind == 3:
            return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.norm(x)


@step("act")
class Activation(Piece):
    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        if self.a % 4 == 0:
            return torch.relu(x)
        if self.a % 4 == 1:
            return F.gelu(x)
        if self.a % 4 == 2:
            return torch.sigmoid(x)
        return x.clone().clamp_(-1.0, 1.5)


@step("gate")
class Gate(Piece):
    def make(self, c: int) -> None:
        self.conv = nn.Conv2d(c, 1 if self.a % 2 else c, 1)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return x * torch.sigmoid(self.conv(x))


@step("squeeze")
class SqueezeExcite(Piece):
    def make(self, c: int) -> None:
        self.fc1 = nn.Conv2d(c, 4 + self.a % 3, 1)
        self.fc2 = nn.Conv2d(4 + self.a % 3, c, 1)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        gate = self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * (gate.sigmoid() if self.b % 2 else F.hardsigmoid(gate))


@step("scale")
class Scale(Piece):
    def make(self, c: int) -> None:
        if self.a % 2:
            self.gamma = nn.Parameter(torch.ones(1, c, 1, 1))
        else:
            self.register_buffer("gamma", torch.linspace(0.5, 1.5, c).view(c, 1, 1))

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return x * self.gamma
