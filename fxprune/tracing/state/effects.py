"""What an operator does beside its result: it writes into tensors, or draws random numbers."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxprune import nested
from fxprune.labels.store import Axis

__all__ = ["acts", "overlap", "skips_entries", "written"]


@functools.cache
def _places(func: Any) -> tuple[tuple[int, str], ...]:
    """The arguments that an operator writes into, as its schema says: by place and by name."""
    found = enumerate(func._schema.arguments) if func._schema.is_mutable else ()
    return tuple((i, a.name) for i, a in found if a.alias_info is not None and a.alias_info.is_write)


def written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that a call of an operator writes into."""
    return nested.tensors([args[i] if i < len(args) else kwargs.get(name) for i, name in _places(func)])


def acts(func: Any) -> bool:
    """Whether a call of an operator counts even if nobody reads its result."""
    return bool(_places(func)) or torch.Tag.nondeterministic_seeded in func.tags


def skips_entries(axis: Axis, wholes: Iterable[Axis]) -> bool:
    """Whether an axis of a view holds some entries of the tensor's, and not one run of them: a rewrite would have to take them
    by number, which makes a copy."""
    if axis.labels is None or axis.size < 2:
        return False
    for whole in wholes:
        if whole.labels is None:
            continue
        start = np.flatnonzero(whole.labels == axis.labels[0])
        if any(np.array_equal(whole.labels[i : i + axis.size], axis.labels) for i in start.tolist()):
            return False
    return True


def overlap(a: Axis, b: Axis) -> bool:
    """Whether two axes have labels in common."""
    return a.labels is not None and b.labels is not None and bool(np.isin(a.labels, b.labels).any())
