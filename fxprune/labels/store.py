"""Dimension labels: one integer per index of every tensor axis; indices that must go together end in one class.

While a graph runs on meta tensors, the rules (`fxprune.rules`) only *record*: these labels are one channel, this one
cannot be removed, this axis of ``a * b`` entries is a product of two axes. `fxprune.labels.solver` works it all out afterwards,
because what decides about a reshape often comes later in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fxprune import nested

# Copies on longer axes (whole batches of maps) never meet a parameter.
_MOST_COPIES = 1 << 17

__all__ = ["Axis", "Cause", "LabelStore", "Product", "Role", "axes_in"]

# What an axis is to the layer that holds it: an output axis, an input axis, or neither (norms, tables, statistics).
Role = Literal["producer", "consumer", "affine"]


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a tensor.

    Attributes:
        size: number of entries.
        labels: int64 array ``[size]``, or None where no entry can be removed. Label 0 is an entry that cannot.
        dynamic: the size follows the size of the model's input (batch, height, tokens, ...).
        cause: of an axis without labels, why no entry can be removed, where that is known.
        parts: of an axis that a reshape made of channels and sizes that follow the input, those axes: how the entries lie
            depends on the sizes, and only the parts tell.
    """

    size: int
    labels: np.ndarray | None = None
    dynamic: bool = False
    cause: int | None = None
    parts: tuple[Axis, ...] = ()

    def __getitem__(self, index: slice | np.ndarray) -> Axis:
        """The axis after a selection of its entries."""
        if self.labels is None:
            size = len(range(self.size)[index]) if isinstance(index, slice) else len(index)
            return Axis(size, None, self.dynamic, self.cause)
        labels = self.labels[index]
        return Axis(len(labels), labels, self.dynamic)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something was decided: in words, with the graph node and the line of source that led there."""

    text: str
    node: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = " ".join(part for part in (f"at node {self.node}" if self.node else "", self.source) if part)
        return f"{self.text} ({where})" if where else self.text


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """``whole[i * len(right) + j]`` goes when ``left[i]`` or ``right[j]`` goes."""

    whole: np.ndarray
    left: np.ndarray
    right: np.ndarray
    cause: int


class LabelStore:
    """Grows labels and records what the rules say of them. Nothing is resolved here."""

    def __init__(self) -> None:
        self.count = 1  # label 0: cannot be removed
        self.causes: list[Cause] = [Cause("part of the model's inputs or outputs")]
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.numbers: dict[int, np.ndarray] = {}  # of pairs that are copies: which copy each is
        self.fixed: list[tuple[np.ndarray, int]] = []
        self.products: list[Product] = []
        self.statistics: list[np.ndarray] = []  # a norm, softmax or mean runs over these
        self.batched: list[np.ndarray] = []  # batch axes of matrix products: attention heads
        self.grouped: list[np.ndarray] = []  # the groups of convolutions with several channels in each
        self.met: list[tuple[Axis, np.ndarray]] = []  # axes that follow the input, and labels that they are as many as
        self._cause_index: dict[Cause, int] = {}

    def cause(self, cause: Cause) -> int:
        """The index of a cause, adding it if new."""
        index = self._cause_index.get(cause)
        if index is None:
            index = self._cause_index[cause] = len(self.causes)
            self.causes.append(cause)
        return index

    def fresh(self, size: int) -> Axis:
        """A new axis whose entries are free; an axis of one entry can never lose it."""
        if size <= 1:
            return Axis(size)
        labels = np.arange(self.count, self.count + size)
        self.count += size
        return Axis(size, labels)

    def unify(self, a: Axis, b: Axis, cause: int) -> Axis:
        """Record that equal indices of two axes of one size are the same channel; return the axis that stands for both."""
        if a is b or a.labels is b.labels:
            return a if a.dynamic or not b.dynamic else b
        if b.parts and not a.parts:
            a, b = b, a
        if a.labels is None or b.labels is None:
            fixed, other = (a, b) if a.labels is None else (b, a)
            cause = cause if fixed.cause is None else fixed.cause
            self.fix(other, cause)
            if fixed.dynamic and other.labels is not None:
                self.met.append((fixed, other.labels))
            return Axis(a.size, None, a.dynamic or b.dynamic, cause)
        self.pairs.append((a.labels, b.labels))
        return a if a.dynamic or not b.dynamic else Axis(a.size, a.labels, True, None, a.parts)

    def fix(self, axis: Axis, cause: int) -> Axis:
        """Record that no entry of the axis can be removed; return the fixed axis."""
        if axis.labels is None:
            return axis
        self.fixed.append((axis.labels, cause))
        return Axis(axis.size, None, axis.dynamic, cause)

    def mark_statistics(self, axis: Axis) -> None:
        """Record that a statistic (norm, softmax, mean, ...) is taken over the axis."""
        if axis.labels is not None:
            self.statistics.append(axis.labels)

    def mark_batched(self, axis: Axis) -> None:
        """Record that the axis is a batch axis of a matrix product: attention heads, if it has labels."""
        if axis.labels is not None:
            self.batched.append(axis.labels)

    def merge(self, axes: Sequence[Axis], cause: int) -> Axis:
        """One axis from adjacent ones, row-major: ``(a, b) -> a * b``."""
        whole = axes[0]
        for right in axes[1:]:
            whole = self._merge_two(whole, right, cause)
        if whole.dynamic and whole.labels is not None and len(axes) > 1:
            parts = tuple(part for a in axes if a.size > 1 for part in a.parts or (a,))
            whole = Axis(whole.size, whole.labels, True, None, parts)
        return whole

    def _merge_two(self, left: Axis, right: Axis, cause: int) -> Axis:
        size, dynamic = left.size * right.size, left.dynamic or right.dynamic
        if left.size == 1 and left.labels is None:
            return Axis(size, right.labels, dynamic)
        if right.size == 1 and right.labels is None:
            return Axis(size, left.labels, dynamic)
        if left.labels is None and right.labels is None:
            return Axis(size, None, dynamic, right.cause if left.cause is None else left.cause)
        # A side that is fixed now stays fixed, so the product needs no constraint.
        if left.labels is None:
            return Axis(size, self._copies(np.tile(_of(right), left.size), right.size), dynamic)
        if right.labels is None:
            return Axis(size, self._copies(np.repeat(left.labels, right.size), 1, right.size), dynamic)
        whole = self.fresh(size)
        self.products.append(Product(_of(whole), left.labels, right.labels, cause))
        return Axis(size, whole.labels, dynamic)

    def split(self, axis: Axis, sizes: Sequence[int], cause: int, fixed: Sequence[bool] | None = None) -> list[Axis]:
        """Adjacent axes from one, row-major: ``a * b -> (a, b)``; `fixed` says which parts are known to be fixed."""
        sizes = list(sizes)
        fixed = list(fixed) if fixed is not None else [False] * len(sizes)
        if axis.labels is None:
            return [Axis(size, None, axis.dynamic and size > 1, axis.cause) for size in sizes]
        parts: list[Axis] = []
        rest = axis
        for position, size in enumerate(sizes[:-1]):
            tail = int(np.prod(sizes[position + 1 :]))
            if size == 1:
                parts.append(Axis(1))
                continue
            if tail == 1:
                parts.append(self.fix(rest, cause) if fixed[position] else Axis(size, rest.labels, axis.dynamic))
                parts.extend(Axis(1) for _ in sizes[position + 1 :])
                return parts
            head = Axis(size, None) if fixed[position] else self.fresh(size)
            below = Axis(tail, None) if all(fixed[position + 1 :]) else self.fresh(tail)
            self._constrain(rest, head, below, cause)
            parts.append(Axis(size, head.labels, axis.dynamic))
            rest = Axis(tail, below.labels, axis.dynamic)
        parts.append(Axis(1) if rest.size == 1 else self.fix(rest, cause) if fixed[-1] else rest)
        return parts

    def _constrain(self, whole: Axis, left: Axis, right: Axis, cause: int) -> None:
        labels = _of(whole).reshape(left.size, right.size)
        if left.labels is None and right.labels is None:
            self.fixed.append((labels.ravel(), cause))
        elif left.labels is None:
            self.pairs.append((labels.ravel(), np.tile(_of(right), left.size)))
            self.numbers[len(self.pairs) - 1] = np.repeat(np.arange(left.size), right.size)
        elif right.labels is None:
            self.pairs.append((labels.ravel(), np.repeat(left.labels, right.size)))
            self.numbers[len(self.pairs) - 1] = np.tile(np.arange(right.size), left.size)
        else:
            self.products.append(Product(labels.ravel(), left.labels, right.labels, cause))

    def product(self, whole: Axis, left: Axis, right: Axis, cause: int) -> None:
        """Record ``whole = left x right`` (grouped convolution, GroupNorm)."""
        if whole.labels is None:
            self.fix(left, cause)
            self.fix(right, cause)
        else:
            self._constrain(whole, left, right, cause)

    def concat(self, axes: Sequence[Axis]) -> Axis:
        """One axis after another."""
        size, dynamic = sum(a.size for a in axes), any(a.dynamic for a in axes)
        if all(a.labels is None for a in axes):
            return Axis(size, None, dynamic)
        parts = [np.zeros(a.size, np.int64) if a.labels is None else a.labels for a in axes]
        labels = np.concatenate(parts)
        if len(np.unique(labels[labels > 0])) < int((labels > 0).sum()):
            operand = np.repeat(np.arange(len(axes)), [a.size for a in axes])
            labels = self._told_apart(labels, operand)
        return Axis(size, labels, dynamic)

    def copies(self, axis: Axis, times: int, each: bool) -> Axis:
        """The axis repeated as a whole (``repeat``), or each entry by itself (``repeat_interleave``)."""
        size = axis.size * times
        if axis.labels is None:
            return Axis(size, None, axis.dynamic, axis.cause)
        if each:
            return Axis(size, self._copies(np.repeat(axis.labels, times), 1, times), axis.dynamic)
        return Axis(size, self._copies(np.tile(axis.labels, times), axis.size), axis.dynamic)

    def _copies(self, labels: np.ndarray, block: int, modulo: int | None = None) -> np.ndarray:
        number = np.arange(len(labels)) // block
        return self._told_apart(labels, number if modulo is None else number % modulo)

    def _told_apart(self, labels: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Labels of their own for several copies of a channel, so that a check can tell which copy is which."""
        if len(labels) > _MOST_COPIES:
            return labels
        fresh = np.arange(self.count, self.count + len(labels))
        self.count += len(labels)
        self.pairs.append((fresh, labels))
        self.numbers[len(self.pairs) - 1] = number
        return np.where(labels == 0, 0, fresh)


def _of(axis: Axis) -> np.ndarray:
    assert axis.labels is not None
    return axis.labels


def axes_in(value: Any) -> list[Axis]:
    """The axes in the labels of a node's value."""
    return nested.instances(Axis, value)
