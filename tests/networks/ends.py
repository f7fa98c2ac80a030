"""More than one input or output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from networks.base import Stemmed, conv, image, network


@network(
    "two inputs",
    free=["conv1.weight:0", "conv2.weight:0"],
    frozen=["conv2.weight:1"],
    coupled=[("conv1.weight:0", "conv2.weight:0")],
    inputs=lambda batch: (image(batch), image(batch, 4)),
)
class TwoInputs(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(4, 12)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.head(torch.relu(self.bn1(self.conv1(x)) + self.conv2(other)))


@network(
    "two outputs, a tuple",
    free=["conv1.weight:0"],
    frozen=["conv2.weight:0", "head.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1"), ("conv1.weight:0", "head.weight:1")],
)
class TupleOutputs(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 4)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.head(x), self.conv2(x)


@network(
    "two outputs, a dictionary",
    free=["conv1.weight:0"],
    frozen=["conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1")],
)
class DictOutputs(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 4)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.bn1(self.conv1(x)))
        return {"out": self.head(x), "aux": [self.conv2(x), x.shape[0]]}


@network(
    "an inner tensor is an output too",
    free=["conv1.weight:0"],
    frozen=["conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1")],
)
class InnerOutput(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def forward(self, x: Tensor) -> Any:
        y = self.conv2(torch.relu(self.bn1(self.conv1(x))))
        return self.head(y), y
