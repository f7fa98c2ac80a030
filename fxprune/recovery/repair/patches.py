"""Rows of a layer: what some of its outputs are computed from, and its weights as the matrix that does it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CONVOLUTIONS", "TRANSPOSED", "as_matrix", "as_weight", "drawn", "outputs_at", "patches_at", "positions"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def positions(layer: nn.Module | None, output: Tensor) -> tuple[int, ...]:
    """Sizes of the axes of an output beside its channels: images and space of a convolution, all but the last of a linear
    layer (`layer` None)."""
    if layer is None:
        return tuple(output.shape[:-1])
    space = len(layer.kernel_size)  # type: ignore[arg-type]
    return (math.prod(output.shape[: -space - 1]), *output.shape[-space:])


def drawn(sizes: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """Numbers of `count` positions (all, if there are no more), each once."""
    total = math.prod(sizes)
    return torch.arange(total) if total <= count else torch.randperm(total, generator=generator)[:count]


def outputs_at(layer: nn.Module | None, output: Tensor, chosen: Tensor) -> Tensor:
    """``[n, channels]`` of an output at some positions."""
    if layer is None:
        return output.reshape(-1, output.shape[-1])[chosen.to(output.device)]
    sizes = positions(layer, output)
    output = output.reshape(sizes[0], -1, *sizes[1:])
    image, *place = _unraveled(chosen.to(output.device), sizes)
    return output.movedim(1, -1)[(image, *place)]


def patches_at(layer: nn.Module | None, x: Tensor, sizes: Sequence[int], chosen: Tensor) -> Tensor:
    """``[n, groups, inputs]``: what the outputs at some of the positions `sizes` are computed from.

    ``inputs`` runs over the channels of a group, then over the kernel, as `as_matrix` has it.
    """
    chosen = chosen.to(x.device)
    if layer is None:
        return x.reshape(-1, x.shape[-1])[chosen].unsqueeze(1)
    assert isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED))
    space = len(layer.kernel_size)
    x = x.reshape(sizes[0], -1, *x.shape[-space:])
    image, *place = _unraveled(chosen, sizes)
    there = None
    taps: list[Tensor] = []
    if isinstance(layer, CONVOLUTIONS):
        x = _padded(layer, x)
    for axis, o in enumerate(place):
        kernel = torch.arange(layer.kernel_size[axis], device=x.device) * layer.dilation[axis]
        stride = layer.stride[axis]
        if isinstance(layer, CONVOLUTIONS):
            taps.append(o.unsqueeze(1) * stride + kernel)
            continue
        # An output of a transposed convolution sums what reaches it: input i reaches i * stride - padding + kernel.
        reached = o.unsqueeze(1) + int(layer.padding[axis]) - kernel
        i = reached.div(stride, rounding_mode="floor")
        held = (reached % stride == 0) & (i >= 0) & (i < x.shape[axis + 2])
        held = _spread(held, axis, space)
        there = held if there is None else there & held
        taps.append(i.clamp(0, x.shape[axis + 2] - 1))
    index = tuple(_spread(t, axis, space) for axis, t in enumerate(taps))
    found = x.movedim(1, -1)[(image.reshape(-1, *(1 for _ in taps)), *index)]  # [n, *kernel, channels]
    if there is not None:
        found = found * there.unsqueeze(-1)
    return found.movedim(-1, 1).reshape(len(image), layer.groups, -1)


def as_matrix(layer: nn.Module | None, weight: Tensor) -> Tensor:
    """``[groups, inputs, outputs]`` of a layer's weight."""
    if layer is None:
        return weight.T.unsqueeze(0)
    groups = int(layer.groups)  # type: ignore[arg-type]
    if isinstance(layer, TRANSPOSED):  # [in, out / groups, *kernel]
        parts = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return parts.transpose(2, 3).reshape(groups, -1, weight.shape[1])
    return weight.reshape(groups, weight.shape[0] // groups, -1).mT  # [out, in / groups, *kernel]


def as_weight(layer: nn.Module | None, matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_matrix`."""
    if layer is None:
        return matrix[0].T
    groups = int(layer.groups)  # type: ignore[arg-type]
    if isinstance(layer, TRANSPOSED):
        parts = matrix.reshape(groups, like.shape[0] // groups, -1, like.shape[1]).transpose(2, 3)
        return parts.reshape(like.shape)
    return matrix.mT.reshape(like.shape)


def _padded(layer: Any, x: Tensor) -> Tensor:
    """An input with the rim that its convolution puts around it, as its forward reads the settings."""
    if layer.padding_mode != "zeros":
        return F.pad(x, list(layer._reversed_padding_repeated_twice), layer.padding_mode)
    around: list[int] = []
    for axis in reversed(range(len(layer.kernel_size))):
        if layer.padding == "same":
            whole = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            around += [whole // 2, whole - whole // 2]
        else:
            around += [0, 0] if layer.padding == "valid" else [layer.padding[axis]] * 2
    return F.pad(x, around)


def _unraveled(chosen: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    found = []
    for size in reversed(sizes):
        found.append(chosen % size)
        chosen = chosen.div(size, rounding_mode="floor")
    return found[::-1]


def _spread(taps: Tensor, axis: int, space: int) -> Tensor:
    """``[n, kernel]`` of one axis as ``[n, 1, kernel, 1]``, to be broadcast with those of the others."""
    return taps.reshape(len(taps), *(taps.shape[1] if i == axis else 1 for i in range(space)))
