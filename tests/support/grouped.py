"""A network whose channels go by whole groups of a convolution or one by one within them."""

from __future__ import annotations

from torch import Tensor, nn


class Grouped(nn.Module):
    """Whole groups of a convolution, or channels within them: not both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.c(self.b(self.a(x).relu()).relu()).mean((2, 3))
        return found
