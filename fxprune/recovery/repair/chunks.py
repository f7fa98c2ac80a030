"""The images of a repair: read once, in chunks, of which a fifth is held back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fxprune import nested
from fxprune.errors import InputError, shown
from fxprune.inputs.batches import Batch, Names, read_batch
from fxprune.statistics.running import each_batch

__all__ = ["chunks_of", "held_back", "parted"]

_SIZE = 64
_PARTS = 5  # one of so many chunks is held back


def chunks_of(images: Any, names: Names, device: torch.device) -> Iterator[Batch]:
    """Chunks of images: a tensor in parts of 64, or fewer where there are few; batches as they come, but that fewer than
    five of them are parted further.

    Args:
        images: a tensor ``[n, ...]``, or an iterable of batches as `fxprune.prune` takes them as data.
        names: of the model's inputs, with their defaults.

    Raises:
        InputError: there are too few, they do not fit the model, or hold values that are not finite.
    """
    if isinstance(images, Tensor):
        size = max(1, min(_SIZE, math.ceil(len(images) / _PARTS))) if images.dim() else 1
        images = [(part,) for part in images.split(size)] if images.dim() else []
    if isinstance(images, (str, bytes)) or not isinstance(images, Iterable):
        raise InputError(f"images must be a tensor of them, or an iterable of batches, not {shown(images)}")
    first: list[Batch] = []
    source = each_batch(images)
    for batch in source:
        first.append(_checked(read_batch(batch, names, device)))
        if len(first) == _PARTS:
            break
    few = len(first) < _PARTS
    first = [part for batch in first for part in (parted(batch) if few else [batch])]
    if len(first) < 2:
        raise InputError(
            "images hold fewer than two images: a repair learns from some and is tested on others (640 are plenty)"
        )
    yield from first
    for batch in source:
        yield _checked(read_batch(batch, names, device))


def held_back(chunk: int) -> bool:
    """Whether a chunk is held back: the second of every five."""
    return chunk % _PARTS == 1


def _checked(batch: Batch) -> Batch:
    for tensor in nested.tensors(list(batch.inputs)):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError("images hold values that are NaN or infinite: take those images out")
    return Batch(batch.inputs, None, batch.images)


def parted(batch: Batch) -> list[Batch]:
    """A batch in up to five parts, where each tensor has an entry an image."""
    tensors = nested.tensors(list(batch.inputs))
    if batch.images < 2 or any(t.dim() == 0 or len(t) != batch.images for t in tensors):
        return [batch]
    size = math.ceil(batch.images / _PARTS)

    def part(start: int) -> Batch:
        inputs = nested.map(lambda v: v[start : start + size] if isinstance(v, Tensor) else v, batch.inputs)
        return Batch(inputs, None, len(range(start, min(start + size, batch.images))))

    return [part(start) for start in range(0, batch.images, size)]
