"""What a graph asserts: that Python code which read a size or a flag while it was recorded would read the same again."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

__all__ = ["LIMITS", "NUMBERS", "SCALARS", "Guard", "is_constant"]

SCALARS = (bool, int, float, complex)
LIMITS = (torch.finfo, torch.iinfo)  # of a dtype
NUMBERS = (*SCALARS, *LIMITS)
_LONGEST = 160  # characters of an expression in a message


def is_constant(value: Any) -> bool:
    """Whether a value is a number or a text, which Python code holds as itself."""
    return value is not None and isinstance(value, (*SCALARS, str))


@dataclass(frozen=True, slots=True)
class Guard:
    """A node that had the value `expected` where Python code asked for it: the graph asserts that it has.

    A guard that a bool holds is the bool itself or its negation; any other is an equality.
    """

    node: fx.Node
    expected: Any

    def text(self, values: Mapping[fx.Node, Any]) -> str:
        """The guard as an expression over the nodes that compute tensors: ``size(x, 2) == 8``."""
        return f"{_expression(self.node, values)} == {self.expected!r}"

    def emit(self, text: str, add: Callable[[Any, tuple[Any, ...], Any], fx.Node]) -> None:
        """Put the assertion into the graph; ``add(function, args, value)`` makes a node of a call."""
        held = self.node
        if not isinstance(self.expected, bool):
            held = add(operator.eq, (self.node, self.expected), True)
        elif not self.expected:
            held = add(operator.not_, (self.node,), True)
        shown = text if len(text) < _LONGEST else f"{self.node.name} == {self.expected!r}"
        made = add(torch._assert, (held, f"traced for inputs where {shown}"), None)
        made.meta["branch"] = isinstance(self.expected, bool)  # one of two ways, not one of many numbers


def _expression(node: Any, values: Mapping[fx.Node, Any]) -> str:
    if not isinstance(node, fx.Node):
        return repr(node)
    if node.op == "call_method":
        owner, *rest = (_expression(a, values) for a in node.args)
        return f"{owner}.{node.target}({', '.join(rest)})"
    if node.op == "call_function" and isinstance(values.get(node), SCALARS):
        return f"{getattr(node.target, '__name__', node.target)}({', '.join(_expression(a, values) for a in node.args)})"
    return node.name
