"""A detector that cannot be recorded whole, and a module that calls its part as it is told."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.proofs.randomize import randomize

X = torch.randn(2, 3, 16, 16)
Maps = namedtuple("Maps", ["fine", "coarse"])


class Body(nn.Module):
    """Two maps, by name; the first convolution's channels are its own affair."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.out_channels = 8
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.fine = nn.Conv2d(width, 8, 3, padding=1)
        self.coarse = nn.Conv2d(width, 8, 3, padding=1, stride=2)

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        x = self.norm(self.stem(x)).relu() * scale
        return OrderedDict(fine=self.fine(x), coarse=self.coarse(x))


class Head(nn.Module):
    """One branch on each of a list of maps; its loss is a method, as in torchvision's RetinaNet."""

    weights = (1.0, 2.0)

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1))
        self.offset = {"scores": 0.5}

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [self.branch(m).flatten(2).mean(2) for m in maps]

    def compute_loss(self, scores: Tensor) -> Tensor:
        return (scores - self.offset["scores"]).square().mean() * self.weights[1]


class Detector(nn.Module):
    """Reads values half way: the positions above a threshold."""

    def __init__(self, body: nn.Module | None = None, head: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body or Body()
        self.head = head or Head()
        self.after = nn.Linear(self.body.out_channels, 3)

    def forward(self, images: list[Tensor]) -> Any:
        maps = self.body(torch.stack(list(images)))
        scores = sum(self.head(list(maps.values())))
        found = maps["fine"].movedim(1, 3)[maps["fine"].mean(1) > 0]
        if self.training:
            return self.head.compute_loss(scores) + self.after(found).mean()
        return scores, self.after(found)


def detector(seed: int = 0) -> Detector:
    return randomize(Detector(), seed)


def images() -> tuple[list[Tensor]]:
    return (list(X),)


class Caller(nn.Module):
    """Calls `part` as a function says, after it has read values."""

    def __init__(self, part: nn.Module, call: Any, **more: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.call = call
        for name, module in more.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        x = x * x[x > 0].mean()
        return self.call(self, x)


class Options(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 12)
        self.b = nn.Linear(12, 4)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor, bias: Tensor | None = None, gain: float = 2.0, *, skip: bool = False) -> Tensor:
        x = self.a(x).relu()
        if self.training:
            x = self.drop(x) * 1.0
        x = x if bias is None else x + bias.mean()
        x = self.b(x)
        return x if skip else x * gain
