"""Moving channels: shuffles, permutations, what depends on neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.base import Stemmed, conv, network


@network(
    "channel shuffle",
    free=["conv1.weight:0"],
    coupled=[
        ("conv1.weight:0[0:4]", "head.weight:1[0::3]"),
        ("conv1.weight:0[4:8]", "head.weight:1[1::3]"),
        ("conv1.weight:0[8:12]", "head.weight:1[2::3]"),
    ],
)
class Shuffle(Stemmed):
    def middle(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.view(batch, 3, channels // 3, height, width).transpose(1, 2).contiguous()
        return x.view(batch, channels, height, width)


@network(
    "channel shuffle by nn.ChannelShuffle",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0[0:4]", "head.weight:1[0::3]"), ("conv1.weight:0[4:8]", "head.weight:1[1::3]")],
)
class ShuffleModule(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.shuffle = nn.ChannelShuffle(3)

    def middle(self, x: Tensor) -> Tensor:
        return self.shuffle(x)


@network(
    "ShuffleNet unit",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv1.weight:0[:6]", "head.weight:1[0::2]"),
        ("conv3.weight:0", "head.weight:1[1::2]"),
        ("conv2.weight:0", "conv3.weight:1"),
        ("conv1.weight:0[6:]", "conv2.weight:1"),
    ],
)
class ShuffleUnit(Stemmed):
    """Two branches, interleaved: both lose the same places, so that the 2 x n view stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(6, 8)
        self.conv3 = conv(8, 6)

    def middle(self, x: Tensor) -> Tensor:
        kept, moved = x.chunk(2, dim=1)
        x = torch.cat((kept, self.conv3(torch.relu(self.conv2(moved)))), dim=1)
        n, c, h, w = x.size()
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


@network(
    "flip",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "head.weight:1[::-1]")],
)
class Flip(Stemmed):
    def middle(self, x: Tensor) -> Tensor:
        return x.flip(1)


@network(
    "flip added to itself",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "conv1.weight:0[::-1]"), ("conv1.weight:0", "head.weight:1")],
)
class FlipAdd(Stemmed):
    def middle(self, x: Tensor) -> Tensor:
        return x + torch.flip(x, dims=(1,))


ORDER = (5, 2, 9, 0, 11, 7, 1, 3, 10, 4, 8, 6)


@network(
    "index by a permutation",
    free=["conv1.weight:0"],
    coupled=[(f"conv1.weight:0[{i}:{i + 1}]", f"head.weight:1[{k}:{k + 1}]") for k, i in enumerate(ORDER)],
)
class Permuted(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(ORDER))

    def middle(self, x: Tensor) -> Tensor:
        return x[:, self.order]


@network(
    "index_select with repeats",
    free=["conv1.weight:0"],
    coupled=[(f"conv1.weight:0[{i}:{i + 1}]", f"head.weight:1[{k}:{k + 1}]") for k, i in enumerate((*ORDER, 0, 5))],
)
class Selection(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=14)
        self.register_buffer("order", torch.tensor((*ORDER, 0, 5)), persistent=False)

    def middle(self, x: Tensor) -> Tensor:
        return torch.index_select(x, 1, self.order)


@network(
    "roll over channels",
    free=["conv2.weight:0"],
    frozen=["conv1.weight:0"],
    blocked="roll",
)
class Rolled(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(torch.roll(x, 2, dims=1))


@network("roll over space", free=["conv1.weight:0"], coupled=[("conv1.weight:0", "head.weight:1")])
class RolledSpace(Stemmed):
    def middle(self, x: Tensor) -> Tensor:
        return torch.roll(x, shifts=(-2, 1), dims=(2, 3))


@network("cumulative sum over channels", free=["conv2.weight:0"], frozen=["conv1.weight:0"], blocked="cumsum")
class CumulativeSum(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(x.cumsum(1))


@network("local response norm", free=["conv2.weight:0"], frozen=["conv1.weight:0"])
class LocalResponse(Stemmed):
    """Each channel is divided by its neighbours: none may go."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LocalResponseNorm(3)
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm(x))
