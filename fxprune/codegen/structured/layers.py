"""The arguments of torch.nn's layers: their names and defaults."""

from __future__ import annotations

import ast
import functools
import inspect

from torch import nn

__all__ = ["layer_defaults", "name_at"]


def part_of(call: str) -> type | None:
    """The layer of torch.nn that is called, if it is one."""
    found = getattr(nn, call.removeprefix("nn."), None) if call.startswith("nn.") else None
    return found if isinstance(found, type) else None


@functools.cache
def parameters(call: str) -> dict[str, object]:
    layer = part_of(call)
    if layer is None:
        return {}
    return {n: p.default for n, p in list(inspect.signature(layer.__init__).parameters.items())[1:]}  # type: ignore[misc]


def name_at(call: str, place: int) -> str | int:
    names = list(parameters(call))
    return names[place] if place < len(names) else place


@functools.cache
def layer_defaults(call: str) -> dict[str, ast.expr]:
    plain = {n: d for n, d in parameters(call).items() if isinstance(d, (bool, int, float, str, tuple)) or d is None}
    return {name: constant(value) for name, value in plain.items()}


def constant(value: object) -> ast.expr:
    """A constant as an expression."""
    return ast.parse(repr(value), mode="eval").body
