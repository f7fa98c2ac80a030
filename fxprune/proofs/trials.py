"""On what a recording and the model are compared: random inputs of several sizes, in both modes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fxprune import nested
from fxprune.tracing.tracer import Traced

__all__ = ["Trial", "batches_of", "bound_axes", "other_sizes", "work_of"]

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


def other_sizes(inputs: Inputs, bound: Set[tuple[int, int]] = frozenset()) -> Iterator[tuple[str, Inputs]]:
    """Inputs of other heights, widths or lengths, each with its name.

    Axes of one size change together, wherever they are, since what belongs together has the same size; of images, then,
    the height alone. What the model itself does not take says nothing.

    Args:
        bound: axes that stay, as the number of the tensor and that of its axis: see `bound_axes`.
    """
    tensors = nested.tensors(inputs)
    batch = next((int(t.shape[0]) for t in tensors if t.dim()), 0)
    free = [(i, d) for i, t in enumerate(tensors) for d in range(1, t.dim()) if (i, d) not in bound]
    sizes = {int(tensors[i].shape[d]) for i, d in free}
    for size in sorted((s for s in sizes if s > 1 and s != batch), reverse=True):
        other = size // 2 if size > 3 else size + 1
        changed = {(i, d): other for i, d in free if tensors[i].shape[d] == size}
        yield f"{size} -> {other}", _resized(inputs, changed)
    rows = [(i, d) for i, d in free if d == 2 and tensors[i].dim() == 4]
    for height in sorted({int(tensors[i].shape[d]) for i, d in rows if tensors[i].shape[d] > 3}):
        changed = {(i, d): height // 2 for i, d in rows if tensors[i].shape[d] == height}
        yield f"height {height} -> {height // 2}", _resized(inputs, changed)


def bound_axes(traced: Traced) -> set[tuple[int, int]]:
    """The axes of the inputs that are as many as an axis of a parameter, as the number of the tensor and that of the axis."""
    mode = traced.mode
    weights = {id(a.labels) for t in traced.tensors.values() for a in mode.axes(t) if a.labels is not None}
    held = {id(axis) for axis, labels in mode.store.met if id(labels) in weights}
    tensors = nested.tensors(traced.inputs)
    return {(i, d) for i, t in enumerate(tensors) for d, axis in enumerate(mode.axes(t)) if id(axis) in held}


def work_of(traced: Traced, trial: Trial) -> float:
    """About how many MACs a trial takes: those of the recording, times how many more entries the inputs have."""
    macs = sum(term.constant * math.prod(map(len, term.axes)) for term in traced.mode.macs)
    entries, recorded = (max(1, sum(t.numel() for t in nested.tensors(v))) for v in (trial.inputs, traced.inputs))
    return macs * entries / recorded * (3 if trial.gradients else 1)


def _resized(inputs: Inputs, sizes: Mapping[tuple[int, int], int]) -> Inputs:
    """Inputs on the meta device in which some axes of the tensors have other sizes."""
    number = itertools.count()

    def make(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        i = next(number)
        shape = [sizes.get((i, dim), int(s)) for dim, s in enumerate(value.shape)]
        return torch.empty(shape, dtype=value.dtype, device="meta")

    args, named = nested.map(make, inputs)
    return args, named
