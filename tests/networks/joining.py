"""Adding and joining channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Stemmed, conv, network


@network(
    "residual add",
    free=["conv1.weight:0", "conv2.weight:0", "conv3.weight:0"],
    frozen=["conv1.weight:1", "head.weight:0"],
    coupled=[
        ("conv1.weight:0", "conv3.weight:0"),
        ("conv1.weight:0", "conv2.weight:1"),
        ("conv1.weight:0", "bn1.bias:0"),
        ("conv1.weight:0", "bn1.running_var:0"),
        ("conv1.weight:0", "head.weight:1"),
        ("conv2.weight:0", "conv3.weight:1"),
    ],
    apart=[("conv1.weight:0", "conv2.weight:0")],
)
class ResidualAdd(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 8)
        self.conv3 = conv(8, 12)

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv3(torch.relu(self.conv2(x))))


@network(
    "concatenation",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "head.weight:1[:12]"), ("conv2.weight:0", "head.weight:1[12:]")],
    apart=[("conv1.weight:0", "conv2.weight:0")],
)
class Concatenation(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=20)
        self.conv2 = conv(12, 8)

    def middle(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(x)], 1)


@network(
    "norm over a concatenation",
    free=["conv1.weight:0", "conv2.weight:0", "conv3.weight:0"],
    coupled=[
        ("conv1.weight:0", "bn2.weight:0[:12]"),
        ("conv2.weight:0", "bn2.weight:0[12:]"),
        ("conv2.weight:0", "conv3.weight:1[12:]"),
        ("conv3.weight:0", "head.weight:1[20:]"),
    ],
    apart=[("conv1.weight:0", "conv2.weight:0"), ("conv2.weight:0", "conv3.weight:0")],
)
class DenseNorm(Stemmed):
    """As in DenseNet: every layer sees all features before it."""

    def __init__(self) -> None:
        super().__init__(head=26)
        self.conv2 = conv(12, 8)
        self.bn2 = nn.BatchNorm2d(20)
        self.conv3 = conv(20, 6)

    def middle(self, x: Tensor) -> Tensor:
        features = [x]
        features.append(self.conv2(torch.cat(features, 1)))
        y = torch.relu(self.bn2(torch.cat(features, 1)))
        features.append(self.conv3(y))
        return torch.cat(features, 1)


@network(
    "same tensor concatenated twice",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "head.weight:1[:12]"), ("conv1.weight:0", "head.weight:1[12:]")],
)
class ConcatenatedTwice(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=24)

    def middle(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], 1)


@network(
    "concatenation split elsewhere",
    free=["conv1.weight:0", "conv2.weight:0", "conv3.weight:0"],
    coupled=[
        ("conv1.weight:0[:6]", "conv3.weight:1"),
        ("conv1.weight:0[6:]", "head.weight:1[:6]"),
        ("conv2.weight:0", "head.weight:1[6:14]"),
        ("conv3.weight:0", "head.weight:1[14:]"),
    ],
    apart=[("conv1.weight:0", "conv2.weight:0"), ("conv1.weight:0[:6]", "conv1.weight:0[6:]")],
)
class ConcatenationSplit(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=20)
        self.conv2 = conv(3, 8)
        self.conv3 = conv(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.bn1(self.conv1(x)), self.conv2(x)], 1)
        few, many = both.split([6, 14], 1)
        return self.head(torch.cat([many, self.conv3(few)], 1))


@network(
    "stack and flatten",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv1.weight:0", "conv2.weight:0"),
        ("conv1.weight:0", "head.weight:1[:12]"),
        ("conv1.weight:0", "head.weight:1[12:]"),
    ],
)
class StackFlatten(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=24)
        self.conv2 = conv(3, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([self.bn1(self.conv1(x)), self.conv2(x)], 1).flatten(1, 2))


@network(
    "stack and flatten, interleaved",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv1.weight:0", "conv2.weight:0"),
        ("conv1.weight:0", "head.weight:1[0::2]"),
        ("conv1.weight:0", "head.weight:1[1::2]"),
    ],
)
class StackInterleaved(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=24)
        self.conv2 = conv(3, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([self.bn1(self.conv1(x)), self.conv2(x)], 2).flatten(1, 2))


@network(
    "zero-padded channels (ResNet option A)",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:0[2:10]"), ("conv2.weight:0", "head.weight:1")],
    apart=[("conv1.weight:0", "conv2.weight:0[:2]"), ("conv1.weight:0", "conv2.weight:0[10:]")],
)
class ZeroPadded(Stemmed):
    def __init__(self) -> None:
        super().__init__(stem=8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)

    def middle(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return torch.relu(self.conv2(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))


@network(
    "channels padded with ones, then convolved",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "head.weight:1[3:15]")],
)
class OnesPadded(Stemmed):
    """The padding is read by the head: it is a channel like others."""

    def __init__(self) -> None:
        super().__init__(head=16)

    def middle(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 3, 1), value=1.0)
