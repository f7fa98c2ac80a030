"""Copying channels, and folding axes into one another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Stemmed, conv, network


@network(
    "repeat",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "head.weight:1[:12]"), ("conv1.weight:0", "head.weight:1[12:]")],
)
class Repeat(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=24)

    def middle(self, x: Tensor) -> Tensor:
        return x.repeat(1, 2, 1, 1)


@network(
    "repeat_interleave",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", f"head.weight:1[{k}::3]") for k in range(3)],
)
class RepeatInterleave(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=36)

    def middle(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(3, dim=1)


@network(
    "expand and flatten",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", f"head.weight:1[{k}::2]") for k in range(2)],
)
class ExpandFlatten(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=24)

    def middle(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2).expand(-1, -1, 2, -1, -1).flatten(1, 2)


@network(
    "pixel_shuffle",
    free=["conv1.weight:0"],
    coupled=[
        ("conv1.weight:0[0::4]", "head.weight:1"),
        ("conv1.weight:0[0::4]", "conv1.weight:0[1::4]"),
        ("conv1.weight:0[0::4]", "conv1.weight:0[3::4]"),
    ],
)
class PixelShuffle(Stemmed):
    def __init__(self) -> None:
        super().__init__(stem=24, head=6)

    def middle(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, 2)


@network(
    "pixel_unshuffle",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", f"head.weight:1[{k}::4]") for k in range(4)],
)
class PixelUnshuffle(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=48)
        self.down = nn.PixelUnshuffle(2)

    def middle(self, x: Tensor) -> Tensor:
        return self.down(x)


@network(
    "space to depth by view and permute",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", f"head.weight:1[{12 * k}:{12 * k + 12}]") for k in range(4)],
)
class SpaceToDepth(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=48)

    def middle(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(b, c * 4, h // 2, w // 2)


@network(
    "patches cut by strided slices",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", f"conv2.weight:1[{12 * k}:{12 * k + 12}]") for k in range(4)],
)
class PatchMerging(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(48, 12, 1)

    def middle(self, x: Tensor) -> Tensor:
        parts = [x[:, :, i::2, j::2] for j in range(2) for i in range(2)]
        return self.conv2(torch.cat(parts, 1))


@network(
    "unflatten and sum",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0[:6]", "conv1.weight:0[6:]"), ("conv1.weight:0[:6]", "head.weight:1")],
    masked=["conv1.weight:0", "conv1.bias:0", "bn1.weight:0", "bn1.bias:0"],
)
class UnflattenSum(Stemmed):
    """2 x 6 channels, summed over the 2: removed along the 6."""

    def __init__(self) -> None:
        super().__init__(head=6)

    def middle(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (2, 6)).sum(1)


@network(
    "selective kernel (softmax over branches)",
    free=["conv1.weight:0", "conv2.weight:0", "fc1.weight:0", "fc2.weight:0"],
    coupled=[
        ("conv1.weight:0", "conv2.weight:0"),
        ("conv1.weight:0", "fc1.weight:1"),
        ("conv1.weight:0", "fc2.weight:0[:12]"),
        ("conv1.weight:0", "fc2.weight:0[12:]"),
        ("fc1.weight:0", "fc2.weight:1"),
    ],
    apart=[("conv1.weight:0", "fc1.weight:0")],
)
class SelectiveKernel(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(3, 12)
        self.fc1 = conv(12, 6, 1)
        self.fc2 = conv(6, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([self.bn1(self.conv1(x)), self.conv2(x)], dim=1)
        pooled = stacked.sum(dim=1).mean((2, 3), keepdim=True)
        attention = self.fc2(torch.relu(self.fc1(pooled)))
        attention = attention.view(attention.shape[0], 2, 12, 1, 1).softmax(dim=1)
        return self.head((stacked * attention).sum(dim=1))


@network(
    "flatten before linear",
    free=["conv1.weight:0", "fc1.weight:0"],
    coupled=[("conv1.weight:0", f"fc1.weight:1[{k}::4]") for k in range(4)],
)
class Flatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(3, 12)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc1 = nn.Linear(48, 10)
        self.fc2 = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        return self.fc2(torch.relu(self.fc1(torch.flatten(x, 1))))


@network(
    "reshape with literal sizes before linear",
    free=["conv1.weight:0", "fc1.weight:0"],
    coupled=[("conv1.weight:0", f"fc1.weight:1[{k}::4]") for k in range(4)],
)
class FlattenLiteral(Flatten):
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.conv1(x)), 4)
        x = x.view(-1, 12 * 2 * 2)
        return self.fc2(torch.relu(self.fc1(x)))


@network(
    "channels last and back",
    free=["conv1.weight:0", "fc1.weight:0"],
    coupled=[
        ("conv1.weight:0", "fc1.weight:1"),
        ("conv1.weight:0", "fc2.weight:0"),
        ("fc1.weight:0", "fc2.weight:1"),
    ],
    apart=[("conv1.weight:0", "fc1.weight:0")],
)
class ChannelsLast(Stemmed):
    """ConvNeXt without its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.fc2 = nn.Linear(16, 12)

    def middle(self, x: Tensor) -> Tensor:
        y = self.fc2(F.gelu(self.fc1(x.permute(0, 2, 3, 1))))
        return x + y.permute(0, 3, 1, 2)


@network(
    "bilinear pooling (product of two channel axes)",
    free=["conv1.weight:0"],
    masked=["conv1.weight:0", "conv1.bias:0", "conv2.weight:0", "conv2.bias:0"],
)
class BilinearPooling(nn.Module):
    """The classifier reads 8 x 3 products of two layers' channels: one of the two can lose channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(3, 8)
        self.conv2 = conv(3, 3)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        outer = torch.einsum("bchw,bdhw->bcd", self.conv1(x), self.conv2(x))
        return self.head(outer.flatten(1))


@network(
    "unfold",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", f"fc.weight:1[{k}::4]") for k in range(4)],
)
class Unfold(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(48, 12)

    def middle(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 2, stride=2).transpose(1, 2)
        return self.fc(patches).transpose(1, 2).unflatten(2, (4, 4))
