"""On what a recording and the model are compared: random inputs of several sizes, in both modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fxprune import nested

__all__ = ["Trial", "batch_of", "other_batches", "other_sizes", "rebatched"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Trial:
    """One call of both.

    Attributes:
        name: for reports.
        inputs: positional and keyword inputs on the meta device.
        training: the mode.
        gradients: whether the parameters get gradients that are compared, too.
    """

    name: str
    inputs: Inputs
    training: bool = False
    gradients: bool = False


def batch_of(inputs: Inputs) -> int:
    """The first size of the first tensor; 0 where no tensor has one."""
    return next((int(t.shape[0]) for t in nested.tensors(inputs) if t.dim()), 0)


def other_batches(batch: int) -> tuple[int, int]:
    """Two more numbers of samples to try, the cheaper one first: a batch of one is never like another by chance alone."""
    return (1, batch + 1) if batch > 1 else (2, 3)


def rebatched(inputs: Inputs, batch: int) -> Inputs:
    """Inputs of another number of samples: of every tensor whose first size is that of the example."""
    old = batch_of(inputs)
    return _resized(inputs, lambda dim, size, rank: batch if dim == 0 and size == old else size)


def other_sizes(inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    """Inputs of other heights, widths or lengths, each with its name.

    Axes of one size change together, wherever they are, since what belongs together has the same size; of images, then,
    the height alone. What the model itself does not take says nothing.
    """
    batch = batch_of(inputs)
    found = {int(s) for t in nested.tensors(inputs) for s in t.shape[1:] if s > 1 and s != batch}
    for size in sorted(found, reverse=True):
        other = size // 2 if size > 3 else size + 1
        yield f"{size} -> {other}", _resized(inputs, partial(_replaced, size, other))
    heights = {int(t.shape[2]) for t in nested.tensors(inputs) if t.dim() == 4 and t.shape[2] > 3}
    for height in sorted(heights):
        yield f"height {height} -> {height // 2}", _resized(inputs, partial(_replaced_height, height))


def _replaced(old: int, new: int, dim: int, size: int, rank: int) -> int:
    return new if dim and size == old else size


def _replaced_height(old: int, dim: int, size: int, rank: int) -> int:
    return old // 2 if rank == 4 and dim == 2 and size == old else size


def _resized(inputs: Inputs, size: Callable[[int, int, int], int]) -> Inputs:
    """Inputs on the meta device with ``size(axis, size, number of axes)`` for every size."""

    def make(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        shape = [size(dim, int(s), value.dim()) for dim, s in enumerate(value.shape)]
        return torch.empty(shape, dtype=value.dtype, device="meta")

    args, named = nested.map(make, inputs)
    return args, named
