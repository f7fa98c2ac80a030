"""Convolutions of every kind, and weights that are computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Stemmed, conv, network


@network(
    "grouped convolution",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv2.weight:0", "head.weight:1")],
)
class Grouped(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12, groups=3)

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(x)))


@network(
    "grouped convolution of channels that are told apart by their place",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv2.weight:0", "head.weight:1")],
    placed=True,
)
class GroupedOfParts(Stemmed):
    """Channels 1 to 6 are written over: three of the first group of four, and three of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.part = conv(12, 6, 1)
        self.conv2 = conv(12, 12, groups=3)

    def middle(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 1:7] += self.part(x)
        return torch.relu(self.conv2(torch.relu(y)))


@network(
    "grouped convolution in a bottleneck (ResNeXt)",
    free=["conv1.weight:0", "conv2.weight:0", "conv3.weight:0"],
    coupled=[("conv1.weight:0", "conv4.weight:0"), ("conv3.weight:0", "conv4.weight:1")],
    apart=[("conv1.weight:0", "conv2.weight:0")],
)
class ResNext(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 16, 1)
        self.conv3 = conv(16, 16, groups=4)
        self.conv4 = conv(16, 12, 1)

    def middle(self, x: Tensor) -> Tensor:
        return x + self.conv4(torch.relu(self.conv3(torch.relu(self.conv2(x)))))


@network(
    "depthwise convolution",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:0"), ("conv1.weight:0", "head.weight:1")],
)
class Depthwise(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12, groups=12)

    def middle(self, x: Tensor) -> Tensor:
        return F.relu6(self.conv2(x))


@network(
    "depthwise convolution, multiplier 2",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv1.weight:0", "conv2.weight:0[0::2]"),
        ("conv1.weight:0", "conv2.weight:0[1::2]"),
        ("conv1.weight:0", "head.weight:1[1::2]"),
    ],
)
class DepthwiseMultiplier(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=24)
        self.conv2 = conv(12, 24, groups=12)

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(x))


@network(
    "one-output-channel convolution (not depthwise)",
    free=["conv1.weight:0"],
    frozen=["conv2.weight:0", "conv3.weight:1"],
    coupled=[("conv1.weight:0", "conv2.weight:1"), ("conv3.weight:0", "head.weight:1")],
    apart=[("conv1.weight:0", "conv3.weight:0")],
)
class OneOutput(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 1)
        self.conv3 = conv(1, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv3(torch.sigmoid(self.conv2(x)))


@network(
    "spatial gate of one channel",
    free=["conv1.weight:0"],
    frozen=["conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1"), ("conv1.weight:0", "head.weight:1")],
)
class SpatialGate(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 1)

    def middle(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv2(x))


@network(
    "transposed convolution",
    free=["conv1.weight:0", "up.weight:1"],
    coupled=[
        ("conv1.weight:0", "up.weight:0"),
        ("up.weight:1", "head.weight:1"),
        ("up.weight:1", "up.bias:0"),
    ],
    apart=[("conv1.weight:0", "up.weight:1")],
)
class Transposed(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=8)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)

    def middle(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(x))


@network("transposed convolution, grouped", free=["conv1.weight:0", "up.weight:0", "up.bias:0"])
class TransposedGrouped(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(12, 12, 2, stride=2, groups=3)

    def middle(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(x))


@network(
    "transposed convolution, depthwise",
    free=["conv1.weight:0", "up.weight:0"],
    coupled=[
        ("conv1.weight:0", "up.weight:0"),
        ("conv1.weight:0", "up.bias:0"),
        ("conv1.weight:0", "head.weight:1"),
    ],
)
class TransposedDepthwise(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(12, 12, 2, stride=2, groups=12)

    def middle(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(x))


@network(
    "padding by reflection",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1"), ("conv2.weight:0", "head.weight:1")],
)
class Reflected(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12, padding_mode="reflect", bias=False)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(F.pad(x, (1, 1, 0, 0), mode="replicate"))


@network(
    "1d and 3d convolution",
    free=["conv1.weight:0", "conv2.weight:0", "conv3.weight:0"],
    coupled=[
        ("conv1.weight:0", "conv2.weight:1"),
        ("conv2.weight:0", "conv3.weight:1"),
        ("conv3.weight:0", "head.weight:1"),
    ],
)
class OtherDimensions(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv3d(12, 8, 3, padding=1)
        self.conv3 = nn.Conv1d(8, 12, 3, padding=1)

    def middle(self, x: Tensor) -> Tensor:
        y = self.conv2(x.unsqueeze(2)).squeeze(2)
        return self.conv3(y.flatten(2)).unflatten(2, (8, 8))


@network(
    "functional convolution with a computed weight",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv1.weight:0", "conv2.weight:1"),
        ("conv2.weight:0", "conv2.gain:0"),
        ("conv2.weight:0", "head.weight:1"),
    ],
    inexact=["conv1.weight:0"],
)
class ComputedWeight(Stemmed):
    """Weight standardisation: a statistic over the filter's input channels."""

    class Standardised(nn.Conv2d):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs, 3, padding=1)
            self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            mean = self.weight.mean((1, 2, 3), keepdim=True)
            std = self.weight.std((1, 2, 3), keepdim=True)
            weight = self.gain * (self.weight - mean) / (std + 1e-5)
            return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = self.Standardised(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(x))


@network(
    "weight standardised by batch_norm",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1"), ("conv2.weight:0", "head.weight:1")],
    inexact=["conv1.weight:0"],
)
class NormedWeight(Stemmed):
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            flat = self.weight.reshape(1, self.out_channels, -1)
            weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
            return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = self.Standardised(12, 12, 3, padding=1)

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(x))


@network(
    "scaled frozen weights under no_grad",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1"), ("conv2.weight:0", "head.weight:1")],
)
class NoGrad(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)
        for parameter in self.conv1.parameters():
            parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.bn1(self.conv1(x))
        return self.head(F.conv2d(x, self.conv2.weight * 0.5, self.conv2.bias, padding=1))
