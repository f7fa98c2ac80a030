"""Names of the methods of sparse learning."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from fxprune.errors import InputError, nearest, shown
from fxprune.recovery.sparsity.base import Sparsity

__all__ = ["make", "names"]

_NAMES = {
    "admm": "fxprune.recovery.sparsity.admm:ADMM",
    "group": "fxprune.recovery.sparsity.group_penalty:GroupPenalty",
    "scale": "fxprune.recovery.sparsity.scale_penalty:ScalePenalty",
    "scp": "fxprune.recovery.sparsity.scp:SCP",
}


def names() -> list[str]:
    """All methods by name.

    >>> names()
    ['admm', 'group', 'scale', 'scp']
    """
    return list(_NAMES)


def make(name: str, model: nn.Module, example_inputs: Any = None, **options: Any) -> Sparsity:
    """The method of a name for a model.

    >>> type(make("group", net, x, strength=1e-3)).__name__
    'GroupPenalty'

    Raises:
        InputError: there is none of that name, or it does not take these options; see also `Sparsity`.
    """
    if not isinstance(name, str) or name not in _NAMES:
        raise InputError(f"there is no sparse learning {shown(name)}{nearest(name, _NAMES)}; known: {', '.join(_NAMES)}")
    module, _, kind = _NAMES[name].partition(":")
    method = getattr(importlib.import_module(module), kind)
    known = [key for key, value in method.__init__.__kwdefaults__.items()]
    for option in options:
        if option not in known:
            raise InputError(f"{name!r} has no option {option!r}{nearest(option, known)}: it has {', '.join(known)}")
    made: Sparsity = method(model, example_inputs, **options)
    return made
