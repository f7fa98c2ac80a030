"""On what a recording and the model are compared: random inputs of several sizes, in both modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fxprune import nested

__all__ = ["Trial", "batches_of", "other_sizes"]

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


def batches_of(example: Inputs, recorded: Inputs) -> tuple[int, list[tuple[int, Inputs]]]:
    """The number of samples of the example, and inputs of two other ones, each with that number; 0 where there is none.

    Args:
        recorded: the inputs of the recording, of another number of samples where the example has one alone.
    """
    tensors, others = nested.tensors(example), nested.tensors(recorded)
    first = next((int(t.shape[0]) for t in tensors if t.dim()), 0)
    axes = {id(t): next(iter(_where_apart(t, o)), None) for t, o in zip(tensors, others, strict=True)}
    sizes = {int(t.shape[d]) for t, d in ((o, axes[id(t)]) for t, o in zip(tensors, others, strict=True)) if d is not None}
    if sizes:
        batch, (more, *_) = 1, sorted(sizes)
        counts = (more, more + 1)
    else:
        batch, counts = first, (1, first + 1) if first > 1 else (2, 3)  # the cheaper one first
        axes = {id(t): 0 if t.dim() and t.shape[0] == first else None for t in tensors}
    if not batch:
        return 0, []

    def resized(value: Any, count: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        shape = [count if d == axes[id(value)] else s for d, s in enumerate(value.shape)]
        return torch.empty(shape, dtype=value.dtype, device="meta")

    return batch, [(n, nested.map(partial(resized, count=n), example)) for n in counts]


def _where_apart(tensor: Tensor, other: Tensor) -> list[int]:
    return [d for d, (a, b) in enumerate(zip(tensor.shape, other.shape, strict=True)) if a != b]


def other_sizes(inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    """Inputs of other heights, widths or lengths, each with its name.

    Axes of one size change together, wherever they are, since what belongs together has the same size; of images, then,
    the height alone. What the model itself does not take says nothing.
    """
    batch = next((int(t.shape[0]) for t in nested.tensors(inputs) if t.dim()), 0)
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
