"""What the steps share: a program, the shape that a step finds, the table of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

__all__ = ["STEPS", "WIDEST", "Piece", "Program", "Shape", "narrow", "programs", "step"]

Step = tuple[str, int, int]
Head = Literal["pool", "flatten", "map"]

WIDEST = 32
SIZE = 6


@dataclass(frozen=True)
class Program:
    """A random network: a stem of 8 channels, the steps, a head of five outputs."""

    steps: tuple[Step, ...]
    head: Head = "pool"

    def build(self) -> nn.Module:
        return Net(self)

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return (torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(batch)),)


@dataclass(frozen=True)
class Shape:
    """Channels, height (= width), and the same of all values so far: a step may use an earlier one."""

    channels: int
    size: int
    past: tuple[tuple[int, int], ...]

    def divisor(self, choice: int, most: int = WIDEST) -> int:
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
    return 2 * s.channels <= WIDEST


class Net(nn.Module):
    """Runs the pieces of a program in turn."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.pieces = nn.ModuleList()
        shape = Shape(8, SIZE, ((8, SIZE),))
        past = [torch.zeros(1, 8, SIZE, SIZE)]
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


def programs(longest: int = 7) -> st.SearchStrategy[Program]:
    """Random programs; hypothesis shrinks them to few steps with small numbers."""
    number = st.integers(0, 11)
    steps: Any = st.tuples(st.sampled_from(sorted(STEPS)), number, number)
    heads: Any = st.sampled_from(["pool", "flatten", "map"])
    return st.builds(Program, st.lists(steps, min_size=1, max_size=longest).map(tuple), heads)
