"""Error of the next layer's output (published: Luo et al., "ThiNet: A Filter Level Pruning Method for Deep Neural Network
Compression", ICCV 2017)."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fxprune.criteria.observing import ActivationCriterion, Sums
from fxprune.errors import InputError
from fxprune.statistics.maps import Maps
from fxprune.statistics.spot import Hook

__all__ = ["Reconstruction", "greedy_order"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Reconstruction(ActivationCriterion):
    """When ThiNet would remove a channel: ``(1 + step) / channels``, the first to go lowest.

    An output of the layer that reads the channels is a sum of one term a channel, ``z_c``. At some random outputs (a
    position and an output channel) for each image, ``G = sum z z^T`` is added up; then channels go one by one, each time the
    one that keeps ``sum over removed pairs of G``, the squared error, least. Padding counts as zeros. Scores are ranks, so a
    global ranking takes the same share of every group.

    Args:
        samples: outputs drawn for each image; 10 as published. All images of a batch share them.
    """

    default_hook: Hook = "consumer"

    def __init__(self, *args: Any, samples: int = 10, **options: Any) -> None:
        super().__init__(*args, **options)
        if samples < 1:
            raise InputError(f"samples must be at least 1, not {samples}")
        self.samples = samples
        self._generators: dict[str, torch.Generator] = {}

    def observe(self, maps: Maps) -> Sums:
        assert maps.weight is not None
        name = f"{maps.spot.group} {maps.spot.node}"
        if name not in self._generators:
            seed = self.seed * 1_000_003 + zlib.crc32(name.encode())
            self._generators[name] = torch.Generator().manual_seed(seed)
        generator = self._generators[name]
        convolution = isinstance(maps.module, _CONVOLUTIONS)
        terms = [(_convolved if convolution else _multiplied)(maps, generator) for _ in range(self.samples)]
        stacked = torch.cat(terms).double()
        return {"products": stacked.T @ stacked}

    def measure(self, sums: Sums) -> Tensor:
        order = greedy_order(sums["products"])
        return (order.argsort() + 1).double() / len(order)


def greedy_order(products: Tensor) -> Tensor:
    """Channels in the order in which they go, from ``G`` as ``[channels, channels]``."""
    cost = products.diagonal().clone()  # what the error would grow by
    order = []
    for _ in range(len(cost)):
        channel = int(cost.argmin())
        order.append(channel)
        cost += 2 * products[channel]
        cost[channel] = math.inf
    return torch.tensor(order)


def _multiplied(maps: Maps, generator: torch.Generator) -> Tensor:
    """``z [images, channels]`` at one random output of a linear layer."""
    channels, entries = maps.spot.entries.shape
    assert maps.weight is not None
    weight = maps.weight.reshape(channels, entries, -1)
    values = maps.values.unflatten(2, (entries, -1)).flatten(3)
    position, output = _draw(values.shape[3], generator), _draw(weight.shape[2], generator)
    return (values[..., position] * weight[:, :, output]).sum(2)


def _convolved(maps: Maps, generator: torch.Generator) -> Tensor:
    """``z [images, channels]`` at one random output of a convolution, all of which have three dimensions here."""
    layer, weight = maps.module, maps.weight
    assert isinstance(layer, _CONVOLUTIONS) and weight is not None
    channels, entries = maps.spot.entries.shape
    missing = 3 - len(layer.kernel_size)
    kernel, stride, dilation = ((1,) * missing + v for v in (layer.kernel_size, layer.stride, layer.dilation))
    values = pad(maps.values.unflatten(2, (entries, -1)), list(layer._reversed_padding_repeated_twice))
    window: list[slice] = []
    for size, k, s, d in zip(values.shape[3:], kernel, stride, dilation, strict=True):
        span = d * (k - 1) + 1
        start = _draw((size - span) // s + 1, generator) * s
        window.append(slice(start, start + span, d))
    output = _draw(layer.out_channels, generator)
    taps = weight.reshape(channels, entries, layer.out_channels, -1)[:, :, output]
    return (values[:, :, :, window[0], window[1], window[2]].flatten(3) * taps).sum((2, 3))


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
