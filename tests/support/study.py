"""A network whose filters are Gaussian, for which much is known in closed form, and its study.

The variation of the l1 norms of n independent weights is ``sqrt((pi / 2 - 1) / n)``, of the l2 norms
``1 / sqrt(2 n)``, and Pearson's correlation of both is 0.936.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

import fxprune
from fxprune.studies import Study

NORMS = ("l1", "l2", "fpgm", "fermat")


class Plain(nn.Module):
    """Three convolutions of 64 filters, the last two of n = 576 weights, all Gaussian."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(i, 64, 3, padding=1, bias=False) for i in (3, 64, 64))
        self.bn = nn.BatchNorm2d(64)
        self.head = nn.Linear(64, 10)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for conv in (self.conv1, self.conv2, self.conv3):
                fan = conv.weight[0].numel()
                conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) * math.sqrt(2 / fan))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.head(torch.relu(self.bn(self.conv3(x))).mean((2, 3)))


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 3])


@functools.cache
def plain() -> nn.Module:
    """Every test reads it, none changes it."""
    torch.manual_seed(0)
    return Plain().eval()


@functools.cache
def plain_study() -> Study:
    return fxprune.study(plain(), NORMS, X)
