"""What the families share: the table, the facts about a network, inputs, and a frame of two layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NETWORKS", "Network", "Pair", "Stemmed", "conv", "image", "network", "tokens"]

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
