"""A small network for the tests of the proofs: two residual blocks, and a dict as output."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.conv(x)).relu()) + x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = nn.Conv2d(3, 8, 3), Block(), Block(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.second(self.first(self.stem(x)))
        return {"logits": self.head(h.mean((2, 3))), "map": None}
