"""What the methods of a class take, and calls that make its instances."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from fxprune.codegen.structured.arguments import Argument

__all__ = ["constructor", "forward_signature", "init_signature"]


def constructor(name: str, arguments: Sequence[Argument], number: int) -> ast.expr:
    """The call that makes an instance, by its number."""
    given, words = [], []
    for argument in arguments:
        value = argument.values[number]
        if argument.default is None:
            given.append(value)
        elif value is not None and ast.dump(value) != ast.dump(argument.default):
            words.append(ast.keyword(argument.name, value))
    return ast.Call(ast.Name(name), given, words)  # type: ignore[arg-type]


def forward_signature(arguments: Mapping[str, str]) -> ast.arguments:
    """Of forward: names -> annotations."""
    shown = [ast.arg("self"), *(ast.arg(name, ast.Name(kind)) for name, kind in arguments.items())]
    return ast.arguments([], shown, None, [], [], None, [])


def init_signature(arguments: Sequence[Argument]) -> ast.arguments:
    """Of ``__init__``."""
    shown = [ast.arg("self"), *(ast.arg(a.name, ast.Name(a.kind)) for a in arguments)]
    return ast.arguments([], shown, None, [], [], None, [a.default for a in arguments if a.default is not None])
