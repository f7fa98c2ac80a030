"""How labels flow through ATen operators: a table of small functions, one a family.

To teach fxprune a new operator, add a function decorated with ``@rule("name", ...)`` to the file of its family (or a new
file, listed in `_FAMILIES`) and a small network to ``tests/networks.py``. A rule gets a `Call`, records
what must go together (`unify`), what cannot go (`fix`), and labels the output (`set`). Operators that PyTorch tags as
pointwise share one rule without being named.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from fxprune.tracing.label_mode import Call

__all__ = ["find", "names", "rule"]

Rule = Callable[["Call"], None]

_FAMILIES = (
    "contraction",
    "convolution",
    "create",
    "elementwise",
    "join",
    "normalization",
    "recurrent",
    "reduction",
    "selection",
    "shape",
    "spatial",
)
_RULES: dict[str, Rule] = {}
_FOUND: dict[Any, Rule | None] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these ATen operators, all overloads and the in-place forms included.

    Names may share one text: ``@rule("relu gelu")``.
    """

    def register(function: Rule) -> Rule:
        for name in " ".join(names).split():
            for form in (name, name + "_"):
                if form in _RULES:
                    raise ValueError(f"two rules for the operator {form!r}")
                _RULES[form] = function
        return function

    return register


def find(func: Any) -> Rule | None:
    """The rule of an operator overload, or None."""
    if func in _FOUND:
        return _FOUND[func]
    _load()
    name = func._schema.name
    found = _RULES.get(name.removeprefix("aten::")) if name.startswith("aten::") else None
    if found is None and _pointwise(func):
        found = _RULES["pointwise"]
    _FOUND[func] = found
    return found


def _pointwise(func: Any) -> bool:
    """PyTorch tags pointwise operators, though not every overload of each."""
    packet = func.overloadpacket
    return any(torch.Tag.pointwise in getattr(packet, name).tags for name in packet.overloads())


def names() -> list[str]:
    """All operators with a rule of their own."""
    _load()
    return sorted(name for name in _RULES if not name.endswith("_"))


def _load() -> None:
    for family in _FAMILIES:
        importlib.import_module(f"fxprune.rules.{family}")
