"""A table of small networks, each of which shows one coupling of channels, with the facts that theory gives.

A place is written ``"conv1.weight:0"`` (a tensor's name and an axis), or ``"conv1.weight:0[::2]"`` for some
entries of that axis. To add a network, decorate a module class (or a function that builds one) with
`network`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NETWORKS", "Network", "Pair", "image", "network", "tokens"]

Pair = tuple[str, str]
Inputs = Callable[[int], tuple[Any, ...]]

WIDTH = 12


def image(batch: int, channels: int = 3, size: int = 8) -> Tensor:
    """The same random images ``(batch, channels, size, size)`` in every run."""
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(batch))


def tokens(batch: int, length: int = 6, channels: int = WIDTH) -> Tensor:
    """The same random sequences ``(batch, length, channels)`` in every run."""
    return torch.randn(batch, length, channels, generator=torch.Generator().manual_seed(batch))


@dataclass(frozen=True)
class Network:
    """A network and what must be true of its channels.

    Attributes:
        id: the coupling that it shows.
        build: makes the module, in train mode, with default initialisation.
        inputs: the positional inputs for a batch size.
        free: places all of whose entries can be removed.
        frozen: places none of whose entries can be removed.
        coupled: pairs of places: entry k of the one is the same channel as entry k of the other.
        apart: pairs of places that share no channel.
        inexact: places whose channels take part in a statistic (a norm, a mean, a softmax over channels); all
            other free channels are exact. None where a choice decides (groups, or within groups).
        masked: places, besides the input axes of convolutions and linear layers, at which a removed channel
            must be set to zero by hand for the original to compute what the slim network computes.
        placed: channels of one group may be told apart by their place (the first half rectified, the rest
            not), so that a group as a whole cannot be permuted.
        blocked: what `why` must mention for the frozen places.
    """

    id: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    free: tuple[str, ...]
    frozen: tuple[str, ...]
    coupled: tuple[Pair, ...]
    apart: tuple[Pair, ...]
    inexact: tuple[str, ...] | None
    masked: tuple[str, ...]
    placed: bool
    blocked: str


NETWORKS: dict[str, Network] = {}


def network(
    name: str,
    *,
    free: Sequence[str] = (),
    frozen: Sequence[str] = (),
    coupled: Sequence[Pair] = (),
    apart: Sequence[Pair] = (),
    inexact: Sequence[str] | None = (),
    masked: Sequence[str] = (),
    placed: bool = False,
    blocked: str = "",
    inputs: Inputs = lambda batch: (image(batch),),
) -> Callable[[Any], Any]:
    """Add a network to the table; see `Network` for the facts."""

    def register(build: Any) -> Any:
        if name in NETWORKS:
            raise ValueError(f"two networks are called {name!r}")
        NETWORKS[name] = Network(
            name,
            build,
            inputs,
            tuple(free),
            tuple(frozen),
            tuple(coupled),
            tuple(apart),
            None if inexact is None else tuple(inexact),
            tuple(masked),
            placed,
            blocked,
        )
        return build

    return register


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the size of the map (stride 1)."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


class Stemmed(nn.Module):
    """``conv1``, then what the subclass does, then ``head``: five maps that nothing may change.

    ``conv1`` is followed by a batch norm whose shift a masked channel would still carry.
    """

    def __init__(self, stem: int = WIDTH, head: int = WIDTH) -> None:
        super().__init__()
        self.conv1 = conv(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.head = conv(head, 5, 1)

    def middle(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.bn1(self.conv1(x))))


# -- adding and joining ----------------------------------------


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


# -- taking apart ----------------------------------------


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


# -- moving entries ----------------------------------------


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


# -- convolutions ----------------------------------------


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


# -- norms and parameters ----------------------------------------


@network("GroupNorm", free=["conv1.weight:0"], coupled=[("conv1.weight:0", "norm.weight:0")], inexact=None)
class GroupNorm(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(3, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(x)


@network(
    "GroupNorm of one group",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.bias:0"), ("conv1.weight:0", "head.weight:1")],
    inexact=["conv1.weight:0"],
)
class GroupNormOne(GroupNorm):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 12)


@network(
    "GroupNorm, a group a channel",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.bias:0"), ("conv1.weight:0", "head.weight:1")],
)
class GroupNormEach(GroupNorm):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(12, 12)


@network(
    "InstanceNorm",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.weight:0"), ("conv1.weight:0", "norm.running_mean:0")],
)
class InstanceNorm(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(12, affine=True, track_running_stats=True)

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(x)


@network(
    "BatchNorm without parameters",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.running_var:0")],
)
class PlainBatchNorm(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(12, affine=False)

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(torch.relu(x))


@network(
    "LayerNorm",
    free=["fc1.weight:0", "fc2.weight:0"],
    coupled=[
        ("fc1.weight:0", "norm.weight:0"),
        ("fc1.weight:0", "fc2.weight:1"),
        ("fc2.weight:0", "head.weight:1"),
    ],
    apart=[("fc1.weight:0", "fc2.weight:0")],
    inexact=["fc1.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class LayerNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.norm = nn.LayerNorm(16)
        self.fc2 = nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.fc2(self.norm(self.fc1(x)))))


@network(
    "LayerNorm of whole maps",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.weight:0"), ("conv1.weight:0", "head.weight:1")],
    inexact=["conv1.weight:0"],
)
class LayerNormMaps(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm([12, 8, 8])

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(x)


@network(
    "LayerNorm over channels of a map (ConvNeXt)",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.weight:0")],
    inexact=["conv1.weight:0"],
)
class LayerNorm2d(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)

    def middle(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.norm.normalized_shape, self.norm.weight, self.norm.bias).permute(0, 3, 1, 2)


@network(
    "RMSNorm",
    free=["fc1.weight:0", "fc2.weight:0"],
    coupled=[("fc1.weight:0", "norm.weight:0"), ("fc1.weight:0", "fc2.weight:1")],
    inexact=["fc1.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class RmsNorm(LayerNorm):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(16)


@network(
    "RMSNorm written out",
    free=["fc1.weight:0", "fc2.weight:0"],
    coupled=[("fc1.weight:0", "gain:0"), ("fc1.weight:0", "fc2.weight:1")],
    inexact=["fc1.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class RmsNormWritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.gain = nn.Parameter(torch.ones(16))
        self.fc2 = nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        return self.head(F.silu(self.fc2(x)))


@network(
    "global response norm",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "gamma:1"), ("conv1.weight:0", "beta:1")],
    inexact=["conv1.weight:0"],
)
class ResponseNorm(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 12, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, 12, 1, 1))

    def middle(self, x: Tensor) -> Tensor:
        strength = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        return x + x * strength / (strength.mean(1, keepdim=True) + 1e-6) * self.gamma + self.beta


@network(
    "per-channel buffer",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "scale:0"), ("conv1.weight:0", "head.weight:1")],
)
class ChannelBuffer(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 12))

    def middle(self, x: Tensor) -> Tensor:
        return x * self.scale.view(1, -1, 1, 1)


@network(
    "per-channel constant written in forward",
    free=["conv2.weight:0"],
    frozen=["conv1.weight:0", "conv2.weight:1"],
    placed=True,
)
class ChannelList(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        steps = torch.tensor([0.5, -1.0, 2.0, 0.25] * 3, dtype=x.dtype, device=x.device)
        return self.conv2(x * steps.reshape(1, 12, 1, 1))


@network(
    "per-channel constant computed in forward",
    placed=True,
    free=["conv2.weight:0"],
    frozen=["conv1.weight:0", "conv2.weight:1"],
)
class ChannelConstant(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        steps = torch.arange(12, dtype=x.dtype, device=x.device)
        return self.conv2(x + (steps * 0.25).view(1, 12, 1, 1))


@network(
    "parameters of shape (1, C, 1, 1) and (C, H, W)",
    free=["conv1.weight:0"],
    frozen=["position:1", "position:2"],
    coupled=[("conv1.weight:0", "gamma:1"), ("conv1.weight:0", "position:0")],
)
class ChannelParameters(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, 12, 1, 1))
        self.position = nn.Parameter(torch.zeros(12, 8, 8))

    def middle(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.position


@network("PReLU, a slope a channel", free=["conv1.weight:0"], coupled=[("conv1.weight:0", "act.weight:0")])
class PRelu(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.PReLU(12)

    def middle(self, x: Tensor) -> Tensor:
        return self.act(x)


@network(
    "softmax over channels",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1"), ("conv2.weight:0", "head.weight:1")],
    inexact=["conv1.weight:0"],
)
class ChannelSoftmax(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(x.softmax(1))


# -- gates ----------------------------------------


@network(
    "squeeze-excite",
    free=["conv1.weight:0", "fc1.weight:0", "fc2.weight:0"],
    coupled=[
        ("conv1.weight:0", "fc1.weight:1"),
        ("conv1.weight:0", "fc2.weight:0"),
        ("fc1.weight:0", "fc2.weight:1"),
    ],
    apart=[("conv1.weight:0", "fc1.weight:0")],
)
class SqueezeExcite(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = conv(12, 6, 1)
        self.fc2 = conv(6, 12, 1)

    def middle(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(gate))))


@network(
    "squeeze-excite by linear layers",
    free=["conv1.weight:0", "fc1.weight:0", "fc2.weight:0"],
    coupled=[("conv1.weight:0", "fc1.weight:1"), ("conv1.weight:0", "fc2.weight:0")],
)
class SqueezeExciteLinear(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Linear(12, 6)
        self.fc2 = nn.Linear(6, 12)

    def middle(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        gate = self.pool(x).view(b, c)
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(gate)))).view(b, c, 1, 1)
        return x * gate.expand_as(x)


@network(
    "ECA (conv1d over channels)",
    free=["conv2.weight:0"],
    frozen=["conv1.weight:0", "eca.weight:0"],
    blocked="conv",
)
class Eca(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3)).unsqueeze(1)
        gate = torch.sigmoid(self.eca(gate)).transpose(1, 2).unsqueeze(-1)
        return self.conv2(x * gate)


@network(
    "CBAM spatial gate (mean and maximum over channels)",
    free=["conv1.weight:0"],
    frozen=["gate.weight:1"],
    coupled=[("conv1.weight:0", "head.weight:1")],
    inexact=["conv1.weight:0"],
)
class Cbam(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.gate = conv(2, 1)

    def middle(self, x: Tensor) -> Tensor:
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.gate(summary))


# -- products and attention ----------------------------------------


@network(
    "einsum with a weight",
    free=["conv1.weight:0", "weight:0"],
    coupled=[("conv1.weight:0", "weight:1"), ("weight:0", "head.weight:1")],
    apart=[("conv1.weight:0", "weight:0")],
    masked=["weight:1"],
)
class Einsum(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=8)
        self.weight = nn.Parameter(torch.randn(8, 12))

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(torch.einsum("bchw,dc->bdhw", x, self.weight))


@network(
    "matmul with a weight",
    free=["fc1.weight:0", "weight:1"],
    coupled=[("fc1.weight:0", "weight:0"), ("weight:1", "head.weight:1"), ("weight:1", "bias:0")],
    masked=["weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class MatmulWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.weight = nn.Parameter(torch.randn(16, 8))
        self.bias = nn.Parameter(torch.zeros(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc1(x)) @ self.weight + self.bias)


class Attended(nn.Module):
    """Tokens in, a residual attention of 3 heads of 4, five features out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 12)
        self.proj = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)

    def attention(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.proj(self.attention(x)))


QKV = ("q.weight:0", "q.bias:0", "k.weight:0", "k.bias:0", "v.weight:0", "v.bias:0")


@network(
    "bmm attention",
    free=["stem.weight:0", "q.weight:0", "k.weight:0", "v.weight:0"],
    coupled=[
        ("q.weight:0", "k.weight:0"),
        ("v.weight:0", "proj.weight:1"),
        ("stem.weight:0", "q.weight:1"),
        ("stem.weight:0", "proj.weight:0"),
        ("q.weight:0[0:4]", "q.weight:0[4:8]"),
    ],
    apart=[("q.weight:0", "v.weight:0"), ("q.weight:0", "stem.weight:0")],
    masked=QKV,
    inputs=lambda batch: (tokens(batch),),
)
class BmmAttention(Attended):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(12, 12)
        self.k = nn.Linear(12, 12)
        self.v = nn.Linear(12, 12)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, 3, 4).transpose(1, 2).reshape(x.shape[0] * 3, -1, 4)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        weights = torch.bmm(q, k.transpose(1, 2)).mul(4**-0.5).softmax(-1)
        y = torch.bmm(weights, v).view(x.shape[0], 3, -1, 4)
        return y.transpose(1, 2).reshape(x.shape[0], -1, 12)


@network(
    "fused qkv",
    free=["stem.weight:0", "qkv.weight:0"],
    coupled=[
        ("qkv.weight:0[:12]", "qkv.weight:0[12:24]"),
        ("qkv.weight:0[:12]", "qkv.weight:0[24:]"),
        ("qkv.weight:0[24:]", "proj.weight:1"),
        ("qkv.weight:0", "qkv.bias:0"),
        ("qkv.weight:0[0:4]", "qkv.weight:0[4:8]"),
        ("stem.weight:0", "qkv.weight:1"),
    ],
    apart=[("qkv.weight:0", "stem.weight:0")],
    masked=["qkv.weight:0", "qkv.bias:0"],
    inputs=lambda batch: (tokens(batch),),
)
class FusedQkv(Attended):
    """(3, heads, head_dim) is one axis: q, k and v lose the same places of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        self.num_heads = 3
        self.scale = 4**-0.5

    def attention(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).reshape(b, n, c)


@network(
    "fused qkv, chunked before the heads",
    free=["stem.weight:0", "qkv.weight:0"],
    coupled=[("qkv.weight:0[:12]", "qkv.weight:0[12:24]"), ("qkv.weight:0[24:]", "proj.weight:1")],
    apart=[("qkv.weight:0[:12]", "qkv.weight:0[24:]")],
    masked=["qkv.weight:0", "qkv.bias:0"],
    inputs=lambda batch: (tokens(batch),),
)
class ChunkedQkv(Attended):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)

    def attention(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (part.reshape(b, n, 3, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).flatten(2)


@network(
    "SDPA",
    free=["stem.weight:0", "q.weight:0", "k.weight:0", "v.weight:0"],
    coupled=[("q.weight:0", "k.weight:0"), ("v.weight:0", "proj.weight:1")],
    apart=[("q.weight:0", "v.weight:0")],
    masked=QKV,
    inputs=lambda batch: (tokens(batch),),
)
class Sdpa(BmmAttention):
    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (3, 4)).transpose(1, 2)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        return y.transpose(1, 2).reshape(x.shape[0], x.shape[1], 12)


@network(
    "grouped-query attention",
    free=["stem.weight:0", "q.weight:0", "k.weight:0", "v.weight:0"],
    coupled=[
        ("q.weight:0[0:4]", "k.weight:0[0:4]"),
        ("q.weight:0[4:8]", "k.weight:0[0:4]"),
        ("v.weight:0[0:4]", "proj.weight:1[0:4]"),
    ],
    apart=[("q.weight:0", "v.weight:0")],
    masked=QKV,
    inputs=lambda batch: (tokens(batch),),
)
class GroupedQuery(Attended):
    """4 heads of queries share 2 heads of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(12, 16)
        self.k = nn.Linear(12, 8)
        self.v = nn.Linear(12, 8)
        self.proj = nn.Linear(16, 12)

    def attention(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 4).transpose(1, 2)
        k = self.k(x).view(b, n, 2, 4).transpose(1, 2).repeat_interleave(2, dim=1)
        v = self.v(x).view(b, n, 2, 4).transpose(1, 2).repeat_interleave(2, dim=1)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, 16)


@network(
    "cross-covariance attention",
    free=["stem.weight:0", "v.weight:0"],
    coupled=[("v.weight:0", "k.weight:0"), ("q.weight:0", "proj.weight:1")],
    inexact=["k.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class CrossCovariance(BmmAttention):
    """Attention between channels: the softmax runs over them."""

    def attention(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, 3, 4).permute(0, 2, 3, 1) for f in (self.q, self.k, self.v))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return y.permute(0, 3, 1, 2).reshape(b, n, 12)


class TorchAttention(Attended):
    """`nn.MultiheadAttention` between residual layers."""

    batch_first = True

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(12, 3, batch_first=self.batch_first)

    def attention(self, x: Tensor) -> Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


MHA = {
    "free": ["stem.weight:0"],
    "coupled": [("stem.weight:0", "attn.in_proj_weight:1"), ("stem.weight:0", "proj.weight:0")],
    "masked": [
        "attn.in_proj_weight:0",
        "attn.in_proj_weight:1",
        "attn.in_proj_bias:0",
        "attn.out_proj.weight:1",
    ],
}

network("nn.MultiheadAttention, batch first", inputs=lambda batch: (tokens(batch),), **MHA)(TorchAttention)
# type: ignore[arg-type]


@network("nn.MultiheadAttention, sequence first", inputs=lambda batch: (tokens(batch).transpose(0, 1),), **MHA)  # type: ignore[arg-type]
class TorchAttentionSequenceFirst(TorchAttention):
    batch_first = False


@network(
    "transformer block with class token and positions",
    free=["stem.weight:0", "qkv.weight:0", "fc1.weight:0"],
    frozen=["position:1"],
    coupled=[
        ("stem.weight:0", "token:2"),
        ("stem.weight:0", "position:2"),
        ("stem.weight:0", "gamma:0"),
        ("stem.weight:0", "fc2.weight:0"),
        ("fc1.weight:0", "fc2.weight:1"),
    ],
    apart=[("stem.weight:0", "fc1.weight:0")],
    inexact=["stem.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class TransformerBlock(FusedQkv):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.position = nn.Parameter(torch.zeros(1, 7, 12))
        self.norm1 = nn.LayerNorm(12)
        self.norm2 = nn.LayerNorm(12)
        self.gamma = nn.Parameter(torch.ones(12))
        self.fc1 = nn.Linear(12, 20)
        self.fc2 = nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.gamma * self.proj(self.attention(self.norm1(x)))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x[:, 0])


@network(
    "window attention",
    free=["stem.weight:0", "qkv.weight:0"],
    frozen=["table:1"],
    coupled=[("stem.weight:0", "qkv.weight:1"), ("qkv.weight:0[24:]", "proj.weight:1")],
    masked=["qkv.weight:0", "qkv.bias:0"],
    inputs=lambda batch: (image(batch, 12).permute(0, 2, 3, 1).contiguous(),),
)
class WindowAttention(FusedQkv):
    """Shifted windows with a table of relative positions, one column a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(49, 3))
        grid = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        offset = grid[:, :, None] - grid[:, None, :] + 3
        self.register_buffer("index", offset[0] * 7 + offset[1])

    def attention(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = torch.roll(x, shifts=(-2, -2), dims=(1, 2))
        x = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        qkv = self.qkv(x).reshape(x.shape[0], 16, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        bias = self.table[self.index.view(-1)].view(16, 16, -1).permute(2, 0, 1).contiguous()
        weights = (q @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)
        x = (weights @ v).transpose(1, 2).reshape(x.shape[0], 16, c)
        x = x.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return torch.roll(x, shifts=(2, 2), dims=(1, 2))


# -- sharing, inputs, outputs ----------------------------------------


@network(
    "a layer called twice",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv2.weight:0", "conv2.weight:1"),
        ("conv2.weight:0", "conv1.weight:0"),
        ("conv2.weight:0", "head.weight:1"),
    ],
)
class CalledTwice(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(torch.relu(self.conv2(x)))


@network(
    "tied weights",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv1.weight:0", "conv2.weight:1"),
        ("conv2.weight:0", "head.weight:1[:8]"),
        ("conv2.weight:0", "head.weight:1[8:]"),
        ("conv2.bias:0", "conv3.bias:0"),
    ],
    apart=[("conv1.weight:0", "conv2.weight:0")],
)
class Tied(Stemmed):
    """Two layers share one weight, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__(head=16)
        self.conv2 = conv(12, 8)
        self.conv3 = conv(12, 8)
        self.conv3.weight = self.conv2.weight

    def middle(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv2(x), self.conv3(torch.relu(x))], 1)


@network(
    "weight tied to its transpose",
    free=["fc1.weight:0", "encode.weight:0"],
    coupled=[("fc1.weight:0", "encode.weight:1"), ("fc1.weight:0", "head.weight:1")],
    apart=[("fc1.weight:0", "encode.weight:0")],
    masked=["encode.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class TiedTranspose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.encode = nn.Linear(16, 6)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(self.encode(torch.relu(self.fc1(x))))
        return self.head(F.linear(code, self.encode.weight.t()))


@network(
    "embedding and tied classifier",
    free=["table.weight:1", "fc1.weight:0"],
    frozen=["table.weight:0"],
    coupled=[("table.weight:1", "fc1.weight:1"), ("table.weight:1", "fc2.weight:0")],
    apart=[("table.weight:1", "fc1.weight:0")],
    inputs=lambda batch: (torch.arange(batch * 6).view(batch, 6) % 10,),
)
class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 12)
        self.fc1 = nn.Linear(12, 16)
        self.fc2 = nn.Linear(16, 12)
        self.head = nn.Linear(12, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x)
        return self.head(x + self.fc2(torch.relu(self.fc1(x))))


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


@network(
    "LSTM interface",
    free=["conv1.weight:0", "fc.weight:0"],
    frozen=["lstm.weight_hh_l0:0", "lstm.weight_ih_l0:0"],
    coupled=[("conv1.weight:0", "lstm.weight_ih_l0:1")],
    masked=["lstm.weight_ih_l0:1"],
)
class LstmInterface(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 7, batch_first=True)
        self.fc = nn.Linear(7, 12)

    def middle(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x.mean(3).permute(0, 2, 1))
        return self.fc(y).permute(0, 2, 1).unsqueeze(-1)


@network(
    "GRU interface, two layers, both directions",
    free=["conv1.weight:0", "fc.weight:0"],
    frozen=["gru.weight_ih_l1:1", "gru.weight_ih_l0:0"],
    coupled=[("conv1.weight:0", "gru.weight_ih_l0:1"), ("conv1.weight:0", "gru.weight_ih_l0_reverse:1")],
    masked=["gru.weight_ih_l0:1", "gru.weight_ih_l0_reverse:1"],
)
class GruInterface(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(12, 7, num_layers=2, bidirectional=True)
        self.fc = nn.Linear(14, 12)

    def middle(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x.mean(3).permute(2, 0, 1))
        return self.fc(y).permute(1, 2, 0).unsqueeze(-1)


@torch.library.custom_op("fxprune_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    """An operator that no rule can know."""
    return x * 0.5


@halve.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@halve.register_kernel("cpu")
def _(x: Tensor) -> Tensor:
    return x * 0.5


halve.register_autograd(lambda ctx, grad: grad * 0.5)


@network(
    "custom operator",
    free=["conv2.weight:0"],
    frozen=["conv1.weight:0", "conv2.weight:1"],
    blocked="halve",
)
class CustomOperator(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(halve(x))


@network(
    "dropout in every form",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1")],
)
class Dropouts(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(0.3)
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        x = self.conv2(F.dropout(self.drop(x), 0.2, training=self.training))
        if self.training:
            return x * (torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device) < 0.8)
        return x


@network(
    "resampling",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1"), ("conv1.weight:0", "head.weight:1[:12]")],
)
class Resampling(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=20)
        self.conv2 = conv(12, 8)

    def middle(self, x: Tensor) -> Tensor:
        y = self.conv2(F.avg_pool2d(x, 2))
        y = F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([x, y], 1)
