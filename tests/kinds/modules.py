"""Modules that several call, that write into their input, or that are held in odd places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, images, net, rows

__all__ = ["CASES"]

ACT = nn.SiLU()


class Block(nn.Module):
    """An activation of the whole library, as YOLO has it."""

    def __init__(self, before: int, after: int, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(before, after, 3, padding=1), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Steps(nn.Module):
    """One block called several times."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.step, self.b = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.same = self.step

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        for _ in range(2):
            h = self.step(h).relu() + self.same(h).tanh()
        return self.b(h)


class Hidden(nn.Module):
    """Modules in a plain list, whose parameters nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.acts = [nn.ReLU(), nn.Tanh()]
        self.table = {"act": nn.Sigmoid()}

    def forward(self, x: Tensor) -> Tensor:
        h = self.acts[1](self.acts[0](self.a(x)))
        return self.b(self.table["act"](h) + nn.Softplus()(h))


class Chosen(nn.Module):
    """A part by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"class": nn.Linear(8, 16), "other": nn.Linear(16, 4), "unused": nn.Linear(3, 3)})
        self.lists = nn.ModuleList([nn.Identity(), nn.Sequential(), nn.ReLU(inplace=True)])
        self.none = None
        self.scale = nn.ParameterDict({"class": nn.Parameter(torch.ones(16))})
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(16)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.parts["class"](x) * self.scale["class"]
        for part, shift in zip(self.lists, [*self.shifts, 0.0], strict=True):
            h = part(h) + shift
        return self.get_submodule("parts.other")(h)


def _chain(*parts: Any) -> Any:
    return lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *(part() for part in parts), nn.Conv2d(8, 4, 3))


def _shared(count: int) -> nn.Module:
    act = nn.ReLU(inplace=True)
    return nn.Sequential(Block(3, 8, act), *(Block(8, 8, act) for _ in range(count)), nn.Conv2d(8, 4, 1))


CASES = [
    Case("one activation for all blocks", lambda: _shared(2), images),
    Case(
        "one activation for all models", lambda: nn.Sequential(Block(3, 8, ACT), Block(8, 8, ACT), nn.Conv2d(8, 4, 1)), images
    ),
    Case("one layer called several times", Steps, rows),
    Case("in no attribute", Hidden, rows),
    Case("by name", Chosen, rows),
    Case("dropout of maps in place", _chain(lambda: nn.Dropout2d(0.5, inplace=True)), images),
    Case("dropout in place", _chain(lambda: nn.Dropout(0.5, inplace=True), nn.ReLU), images),
    Case("alpha dropout", _chain(lambda: nn.AlphaDropout(0.2), nn.SELU), images),
    Case(
        "activations in place",
        _chain(lambda: nn.ReLU6(inplace=True), lambda: nn.Hardswish(inplace=True), lambda: nn.LeakyReLU(0.1, inplace=True)),
        images,
    ),
    Case("ELU in place", _chain(lambda: nn.ELU(inplace=True), nn.Mish, lambda: nn.CELU(inplace=True)), images),
    Case("parametric activation", _chain(lambda: nn.PReLU(8), nn.PReLU), images),
    Case("random activation", _chain(nn.RReLU), images),
    Case("pools and pads", _chain(lambda: nn.ReflectionPad2d(1), lambda: nn.AvgPool2d(2)), images),
    Case("in place, and used before", net(lambda m, h: m.c(h.clone()) + h, c=lambda: nn.ReLU(inplace=True)), rows),
    Case("in place on what is used after", net(lambda m, h: m.c(h) * h, c=lambda: nn.Hardtanh(inplace=True)), rows),
]
