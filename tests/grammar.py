"""Random networks as small programs: text that prints, shrinks, and builds an `nn.Module`.

A program is a list of steps ``(name, a, b)``; the numbers choose among what is possible where the step
stands, so that every list of steps is a network. To reproduce a failure, paste what it printed::

    Program((("conv", 3, 0), ("shuffle", 1, 0)), head="pool").build()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

__all__ = ["STEPS", "Program", "programs"]

Step = tuple[str, int, int]
Head = Literal["pool", "flatten", "map"]

_WIDEST = 32
_SIZE = 6


@dataclass(frozen=True)
class Program:
    """A random network: a stem of 8 channels, the steps, a head of five outputs."""

    steps: tuple[Step, ...]
    head: Head = "pool"

    def build(self) -> nn.Module:
        return Net(self)

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return (torch.randn(batch, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(batch)),)


@dataclass(frozen=True)
class Shape:
    """Channels, height (= width), and the same of all values so far: a step may use an earlier one."""

    channels: int
    size: int
    past: tuple[tuple[int, int], ...]

    def divisor(self, choice: int, most: int = _WIDEST) -> int:
        """One of the divisors of the channels that is at least 2, or 1 if there is none."""
        found = [d for d in range(2, min(self.channels, most) + 1) if self.channels % d == 0]
        return found[choice % len(found)] if found else 1

    def width(self, choice: int) -> int:
        return (4, 6, 8, 12, 16)[choice % 5]

    def earlier(self, choice: int) -> int | None:
        """The index of an earlier value of the same height, or None."""
        found = [i for i, (_, size) in enumerate(self.past) if size == self.size]
        return found[choice % len(found)] if found else None


class Piece(nn.Module):
    """One step: makes its modules from a shape and two numbers, then maps a value, given all before it."""

    def __init__(self, shape: Shape, a: int, b: int) -> None:
        super().__init__()
        self.shape, self.a, self.b = shape, a, b
        self.make(shape.channels)

    def make(self, c: int) -> None:
        """Create the modules for `c` input channels."""

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        raise NotImplementedError


STEPS: dict[str, tuple[type[Piece], Callable[[Shape], bool]]] = {}


def step(name: str, possible: Callable[[Shape], bool] = lambda s: True) -> Callable[[type[Piece]], type[Piece]]:
    """Register a piece under a name; where it is not possible, the step does nothing."""

    def register(piece: type[Piece]) -> type[Piece]:
        STEPS[name] = (piece, possible)
        return piece

    return register


def narrow(s: Shape) -> bool:
    return 2 * s.channels <= _WIDEST


class Net(nn.Module):
    """Runs the pieces of a program in turn."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.pieces = nn.ModuleList()
        shape = Shape(8, _SIZE, ((8, _SIZE),))
        past = [torch.zeros(1, 8, _SIZE, _SIZE)]
        for name, a, b in program.steps:
            kind, possible = STEPS[name]
            if not possible(shape):
                continue
            piece = kind(shape, a, b)
            self.pieces.append(piece)
            with torch.no_grad():
                past.append(piece.eval().apply_to(past[-1], past[:-1]))
            piece.train()
            _, channels, size, _ = past[-1].shape
            shape = Shape(channels, size, (*shape.past, (channels, size)))
        if program.head == "map":
            self.head: nn.Module = nn.Conv2d(shape.channels, 5, 1)
        else:
            self.head = nn.Linear(shape.channels * (shape.size**2 if program.head == "flatten" else 1), 5)

    def forward(self, x: Tensor) -> Tensor:
        past = [self.stem(x)]
        for piece in self.pieces:
            past.append(piece.apply_to(past[-1], past[:-1]))
        x = past[-1]
        if self.program.head == "pool":
            x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        elif self.program.head == "flatten":
            x = x.reshape(x.shape[0], -1)
        found: Tensor = self.head(x)
        return found


# -- layers ------------------------------------------------------------------------------------------------


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
        self.conv = nn.Conv2d(c, min(groups * (1 + self.b % 3), _WIDEST), 3, padding=1, groups=groups)
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


# -- joining and taking apart ------------------------------------------------------------------------------


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
        fits = other is not None and self.shape.past[other][0] + c <= _WIDEST
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


@step("pad", lambda s: s.channels + 6 <= _WIDEST)
class Pad(Piece):
    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, self.a % 4, self.b % 3))


@step("stack", narrow)
class Stack(Piece):
    def make(self, c: int) -> None:
        self.conv = nn.Conv2d(c, c, 1)

    def apply_to(self, x: Tensor, past: list[Tensor]) -> Tensor:
        return torch.stack([x, self.conv(x)], 1 + self.a % 2).flatten(1, 2)


# -- moving entries ----------------------------------------------------------------------------------------


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
        if s.size % 2 == 0 and 4 * s.channels <= _WIDEST:
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


# -- sharing and attention ---------------------------------------------------------------------------------


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


def programs(longest: int = 7) -> st.SearchStrategy[Program]:
    """Random programs; hypothesis shrinks them to few steps with small numbers."""
    number = st.integers(0, 11)
    steps: Any = st.tuples(st.sampled_from(sorted(STEPS)), number, number)
    heads: Any = st.sampled_from(["pool", "flatten", "map"])
    return st.builds(Program, st.lists(steps, min_size=1, max_size=longest).map(tuple), heads)
