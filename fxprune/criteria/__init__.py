"""Criteria: how much a channel matters. One criterion, one file, one name in the table below.

To add one: a file with a subclass of `Criterion` (or any callable ``(group, tensors) -> scores``), a line in `_NAMES`, a
test. `resolve` gives the criterion of a name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fxprune.criteria.base import Criterion, Tensors
from fxprune.errors import InputError, nearest

__all__ = ["Criterion", "Tensors", "names", "resolve"]

_NAMES = {
    "bn_scale": "fxprune.criteria.bn_scale:BatchNormScale",
    "l1": "fxprune.criteria.magnitude:L1",
    "l2": "fxprune.criteria.magnitude:L2",
    "random": "fxprune.criteria.random_scores:Random",
}


def names() -> list[str]:
    """The registered criteria."""
    return sorted(_NAMES)


def resolve(criterion: str | Callable[..., Any], seed: int = 0) -> Callable[..., Any]:
    """The criterion of a registered name; a callable is returned as it is.

    Raises:
        InputError: no criterion has that name.
    """
    if callable(criterion):
        return criterion
    if criterion not in _NAMES:
        raise InputError(
            f"there is no criterion {criterion!r}{nearest(str(criterion), _NAMES)}; known: {', '.join(names())}"
        )
    module, _, name = _NAMES[criterion].partition(":")
    made: Criterion = getattr(importlib.import_module(module), name)(seed=seed)
    return made
