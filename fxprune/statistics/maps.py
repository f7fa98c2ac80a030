"""What a criterion sees of one batch at one spot: maps by image and channel, whatever the layout was."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.errors import InputError
from fxprune.statistics.spot import Spot

__all__ = ["Maps", "maps_of"]

_PREFIX_TOKENS = 5  # class and register tokens that may come before a square grid of patches


@dataclass(eq=False)
class Maps:
    """The activations of one batch at one spot.

    Attributes:
        values: float32 or float64 ``[images, channels, copies, height, width]``. Copies are what one channel has several
            maps of: entries it occupies, heads, windows, frames. A vector has 1 x 1 maps; tokens in a square (after class
            tokens, which are left out) become that square, other sequences are 1 x length, and so are all that a layer reads:
            what it reads of class tokens counts as well.
        labels: int64 ``[images]`` in ``[0, classes)``, or None.
        classes: how many labels there are.
        low, high: ``[channels]``: range of each channel's values, for criteria that ask for one.
        spot: where.
        weight: of a spot at a consumer, its weight as ``[channels, rows, K]``.
        module: of a spot at a consumer, the layer, where it is a module.
    """

    values: Tensor
    spot: Spot
    labels: Tensor | None = None
    classes: int = 0
    low: Tensor | None = None
    high: Tensor | None = None
    weight: Tensor | None = None
    module: torch.nn.Module | None = None

    @property
    def images(self) -> Tensor:
        """The number of images, as a float64 tensor: to be summed over batches."""
        return self.values.new_tensor(len(self.values), dtype=torch.float64)


def maps_of(value: Tensor, spot: Spot, images: int) -> Tensor:
    """Arrange a node's value as `Maps.values`.

    The images are on axis 0 (where each may own several entries in a row, as with windows), or else on the only other
    axis of their number.

    Raises:
        InputError: no axis holds the images, or a value is not finite.
    """
    value = value.detach()
    value = value if value.dtype is torch.float64 else value.float()
    if not bool(torch.isfinite(value).all()):
        raise InputError(
            f"the activation at node {spot.source} is not finite: check the model and its data (under autocast, try bfloat16)"
        )
    dims = list(range(value.dim()))
    batch = _batch_axis(value, spot, images)
    tokens = value.dim() > 2 and spot.dim == value.dim() - 1
    copies = [d for d in dims if d in spot.copies and d != batch]
    places = [d for d in dims if d not in (batch, spot.dim) and d not in copies]
    if len(places) > 2:  # frames and the like: maps of their own
        copies, places = copies + places[:-2], places[-2:]
    index = torch.from_numpy(spot.entries.ravel()).to(value.device)
    sizes = [value.shape[d] for d in places]
    parts = value.shape[batch] // images
    ordered = value.permute(batch, spot.dim, *copies, *places).index_select(1, index)
    ordered = ordered.reshape(images, parts, *spot.entries.shape, -1, math.prod(sizes))
    ordered = ordered.permute(0, 2, 3, 1, 4, 5).flatten(2, 4)  # images, channels, entries x parts x copies, positions
    if len(sizes) == 2:
        return ordered.unflatten(-1, sizes)
    length = ordered.shape[-1]
    side = math.isqrt(length)
    if tokens and spot.reader is None and side > 1 and length - side * side <= _PREFIX_TOKENS:
        return ordered[..., length - side * side :].unflatten(-1, (side, side))
    return ordered.unsqueeze(-2)


def _batch_axis(value: Tensor, spot: Spot, images: int) -> int:
    if spot.dim != 0 and value.shape[0] % images == 0 and value.shape[0]:
        return 0
    others = [d for d in range(value.dim()) if d != spot.dim and value.shape[d] == images]
    if len(others) != 1:
        raise InputError(
            f"the value at node {spot.source}, of shape {tuple(value.shape)}, has no axis of the {images} images of the batch: "
            "protect the layer with ignore, or use a criterion that reads weights"
        )
    return others[0]
