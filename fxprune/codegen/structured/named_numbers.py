"""Numbers of forward that carry what the model's own code calls them, through the text of an expression and back.

reshape(x, n, 3)  # its 3 is "heads"    ->    x.reshape(n, _named("heads", 3))    ->    the constant 3, with ``word``
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from torch import fx

__all__ = ["NamedFloat", "NamedInt", "constants_of", "name_numbers", "shown", "word_of"]

MARK = "_named"


class NamedInt(int):
    """An integer with a word."""

    word: str


class NamedFloat(float):
    """A number with a word."""

    word: str


def name_numbers(graph: fx.Graph) -> None:
    """Have the numbers among a graph's arguments carry the words that are noted for them."""
    for node in graph.nodes:
        words = node.meta.get("words")
        if words:
            node.args = tuple(_named(value, (place,), words) for place, value in enumerate(node.args))
            node.kwargs = {name: _named(value, (name,), words) for name, value in node.kwargs.items()}


def _named(value: Any, place: tuple[int | str, ...], words: Mapping[tuple[int | str, ...], str]) -> Any:
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        items = [_named(item, (*place, number), words) for number, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, slice):
        return slice(*(_named(getattr(value, name), (*place, name), words) for name in ("start", "stop", "step")))
    if place not in words or type(value) not in (int, float):
        return value
    made = NamedInt(value) if type(value) is int else NamedFloat(value)
    made.word = words[place]
    return made


def shown(value: Any, plain: str) -> str:
    """The text of a number whose plain text is known."""
    return f"{MARK}({value.word!r}, {plain})" if isinstance(value, (NamedInt, NamedFloat)) else plain


class _Constants(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != MARK:
            return node
        word, number = node.args
        number.word = word.value  # type: ignore[attr-defined]
        return number


def constants_of(tree: ast.AST) -> Any:
    """A syntax tree in which numbers stand for themselves, and know their words."""
    return _Constants().visit(tree)


def word_of(node: ast.AST) -> str:
    """The word of a number of a syntax tree; empty if it has none."""
    return getattr(node, "word", "")
