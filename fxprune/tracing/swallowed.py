"""Reshapes whose numbers hold channels and sizes that follow the input: ``x.view(-1, 12 * 5 * 5)``, true of one size alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fxprune.labels.store import Axis

__all__ = ["swallowed"]


def swallowed(value: Tensor, axes: Sequence[Axis], sizes: Sequence[Any]) -> list[int]:
    """The axes of a tensor that follow the input and go with channels into a number among the sizes of a reshape.

    At another size of the input the -1 of such a reshape takes up the rest: rows of another number, which mix samples. Of
    several sizes those after the -1 are looked at.
    """
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    if not any(type(n) is int and n == -1 for n in sizes):
        return []  # any other size of the input is an error
    found: list[int] = []
    dim = value.dim()
    for number in reversed(sizes):
        if type(number) is not int or number < 1:
            break
        run, product = [], 1
        while dim and product < number:
            dim -= 1
            run.append(dim)
            product *= int(value.shape[dim])
        if product != number:
            break
        following = [d for d in run if axes[d].dynamic and value.shape[d] > 1]
        if any(axes[d].labels is not None for d in run):
            found += following
    return found
