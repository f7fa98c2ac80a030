"""A network whose report is looked at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Net"]


class Net(nn.Module):
    """A residual stream of 8 channels, an inner group of 12, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.inner, self.outer = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.outer(self.inner(x).relu())).mean((2, 3)))
