"""Taking channels apart: splits, slices, assignments to slices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Stemmed, conv, network, tokens


@network(
    "split by sizes, unequal",
    free=["conv1.weight:0", "conv2.weight:0", "conv3.weight:0"],
    coupled=[
        ("conv1.weight:0[:4]", "conv2.weight:1"),
        ("conv1.weight:0[4:]", "conv3.weight:1"),
        ("conv2.weight:0", "conv3.weight:0"),
    ],
    apart=[("conv2.weight:1", "conv3.weight:1")],
)
class SplitUnequal(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=6)
        self.conv2 = conv(4, 6)
        self.conv3 = conv(8, 6)

    def middle(self, x: Tensor) -> Tensor:
        few, many = torch.split(x, [4, 8], dim=1)
        return self.conv2(few) + self.conv3(many)


@network(
    "split by one size, last part smaller",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv1.weight:0[:5]", "conv1.weight:0[5:10]"),
        ("conv1.weight:0[:5]", "conv2.weight:1[:5]"),
        ("conv1.weight:0[10:]", "conv2.weight:1[5:]"),
    ],
)
class SplitRemainder(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(7, 12)

    def middle(self, x: Tensor) -> Tensor:
        a, b, c = x.split(5, dim=1)
        return self.conv2(torch.cat([a + b, c], 1))


@network(
    "chunk",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0[:6]", "head.weight:1[6:]"), ("conv1.weight:0[6:]", "head.weight:1[:6]")],
    apart=[("conv1.weight:0[:6]", "conv1.weight:0[6:]")],
    placed=True,
)
class Chunk(Stemmed):
    def middle(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return torch.cat([b, torch.tanh(a)], 1)


@network(
    "C2f (chunk into a list, grow it, cat)",
    free=["conv1.weight:0", "blocks.0.0.weight:0", "blocks.1.0.weight:0", "blocks.1.1.weight:0"],
    coupled=[
        ("conv1.weight:0[:6]", "head.weight:1[:6]"),
        ("conv1.weight:0[6:]", "head.weight:1[6:12]"),
        ("conv1.weight:0[6:]", "blocks.0.0.weight:1"),
        ("conv1.weight:0[6:]", "blocks.0.1.weight:0"),
        ("conv1.weight:0[6:]", "blocks.1.1.weight:0"),
        ("conv1.weight:0[6:]", "head.weight:1[18:24]"),
    ],
    apart=[("conv1.weight:0[:6]", "conv1.weight:0[6:]"), ("blocks.0.0.weight:0", "blocks.1.0.weight:0")],
)
class C2f(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=24)
        self.blocks = nn.ModuleList(nn.Sequential(conv(6, 4), conv(4, 6)) for _ in range(2))

    def middle(self, x: Tensor) -> Tensor:
        parts = list(x.chunk(2, 1))
        parts.extend(parts[-1] + block(parts[-1]) for block in self.blocks)
        return torch.cat(parts, 1)


@network(
    "GLU gate",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0[:6]", "conv1.weight:0[6:]"), ("conv1.weight:0[:6]", "head.weight:1")],
)
class Glu(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=6)
        self.gate = nn.GLU(dim=1)

    def middle(self, x: Tensor) -> Tensor:
        return self.gate(x)


@network(
    "GLU by chunk and multiply",
    free=["fc1.weight:0", "fc2.weight:0"],
    coupled=[("fc1.weight:0[:8]", "fc1.weight:0[8:]"), ("fc1.weight:0[:8]", "fc2.weight:1")],
    inputs=lambda batch: (tokens(batch),),
)
class SwiGlu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.fc2 = nn.Linear(8, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.head(self.fc2(F.silu(gate) * value))


@network(
    "channel slices, overlapping",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv1.weight:0[:8]", "conv2.weight:1"),
        ("conv1.weight:0[4:]", "conv3.weight:1"),
        ("conv2.weight:0", "conv3.weight:0"),
    ],
)
class Slices(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=6)
        self.conv2 = conv(8, 6)
        self.conv3 = conv(8, 6)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(x[:, :8]) + self.conv3(x[:, -8:])


@network(
    "channel slices with a step",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0[::2]", "conv1.weight:0[1::2]"), ("conv1.weight:0[::2]", "head.weight:1")],
)
class StridedSlices(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=6)

    def middle(self, x: Tensor) -> Tensor:
        return x[:, ::2] * torch.sigmoid(x[:, 1::2])


@network(
    "one slice rectified, the rest not",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "head.weight:1")],
    placed=True,
)
class RectifiedSlice(Stemmed):
    """All channels have the same weights around them; only their place says what happens to them."""

    def middle(self, x: Tensor) -> Tensor:
        return torch.cat([torch.relu(x[:, :4]), x[:, 4:]], 1)


@network(
    "one channel selected",
    free=["conv1.weight:0[1:]"],
    frozen=["conv1.weight:0[:1]"],
    coupled=[("conv1.weight:0[1:]", "head.weight:1[1:]")],
)
class Selected(Stemmed):
    def middle(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x[:, 0].unsqueeze(1))


@network(
    "slice assignment in place",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv1.weight:0", "head.weight:1"),
        ("conv2.weight:0", "conv1.weight:0[4:8]"),
    ],
)
class SliceAssignment(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).clone()
        y[:, 4:8] = self.conv2(x)
        return self.head(y)


@network(
    "slice assignment into zeros",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "head.weight:1[:12]"), ("conv2.weight:0", "head.weight:1[12:]")],
    apart=[("conv1.weight:0", "conv2.weight:0")],
)
class AssignedZeros(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=20)
        self.conv2 = conv(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape[0], 20, x.shape[2], x.shape[3])
        y[:, :12] = self.bn1(self.conv1(x))
        y[:, 12:] = self.conv2(x)
        return self.head(y)


@network(
    "in-place relu_ and add_",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:0"), ("conv1.weight:0", "head.weight:1")],
)
class InPlace(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)
        self.act = nn.ReLU(inplace=True)

    def middle(self, x: Tensor) -> Tensor:
        y = self.conv2(self.act(x))
        y.add_(x).mul_(2.0)
        y += 0.5
        return y.relu_()
