"""A residual network, and an input for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxprune.proofs.randomize import randomize


class Residual(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(self.norm1(self.conv1(x)).relu()) * scale
        return self.fc(x.mean((2, 3)))


X = torch.randn(2, 3, 8, 8)


def model(width: int = 16, seed: int = 0) -> nn.Module:
    return randomize(Residual(width), seed)
