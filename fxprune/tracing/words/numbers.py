"""What forward calls the numbers among the arguments of its operations.

x.reshape(n, t, self.num_heads, -1)    ->    reshape(x, n, t, 3, -1)     # {(3,): "num_heads"}
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from torch import fx

from fxprune.tracing.places import Place
from fxprune.tracing.words.trees import expression_at, word_of

__all__ = ["Words", "words_at"]

# Where a number stands among a node's arguments: place or name, then places inside containers -> what it is called.
Words = dict[tuple[int | str, ...], str]


def words_at(node: fx.Node, place: Place | None) -> Words:
    """What the code at `place`, which made `node`, calls the numbers that are arguments there."""
    if place is None or not _has_numbers((node.args, dict(node.kwargs))):
        return {}
    code = expression_at(*place)
    if isinstance(code, ast.BinOp):
        return _pairs([code.left, code.right], node.args, ()) if node.op == "call_function" and len(node.args) == 2 else {}
    if isinstance(code, ast.Subscript):
        return _index(code.slice, node.args[1], (1,)) if len(node.args) == 2 else {}
    if not isinstance(code, ast.Call) or not isinstance(code.func, (ast.Attribute, ast.Name)):
        return {}
    called = code.func.attr if isinstance(code.func, ast.Attribute) else code.func.id
    if called != (node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")):
        return {}
    named = {word.arg: word.value for word in code.keywords if word.arg}
    found = {(key,): word for key in node.kwargs if key in named and (word := word_of(named[key]))}
    first = 1 if node.op == "call_method" else 0
    written, values = list(code.args), node.args[first:]
    if len(written) == 1 and isinstance(written[0], (ast.Tuple, ast.List)) and len(values) > 1:
        written = list(written[0].elts)  # view((a, b)) is recorded as view(a, b)
    return found | _pairs(written, values, (), first)


def _has_numbers(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_has_numbers, value))
    if isinstance(value, dict):
        return any(map(_has_numbers, value.values()))
    if isinstance(value, slice):
        return _has_numbers((value.start, value.stop, value.step))
    return type(value) in (int, float) and value != -1


def _pairs(written: Sequence[ast.expr], values: Sequence[Any], where: tuple[int | str, ...], first: int = 0) -> Words:
    """Items of the code beside the values that they were; what stands after ``*shape`` is counted from the end."""
    found: Words = {}
    for number, expression in _placed(written, len(values)):
        value, place = values[number], (*where, number + first)
        if isinstance(value, (tuple, list)) and isinstance(expression, (ast.Tuple, ast.List)):
            found |= _pairs(expression.elts, value, place)
        elif word := word_of(expression):
            items = enumerate(value) if isinstance(value, (tuple, list)) else ()
            found |= {(*place, item): word for item, inner in items if type(inner) in (int, float)}
            found |= {place: word} if type(value) in (int, float) else {}
    return found


def _placed(written: Sequence[ast.expr], count: int) -> Iterator[tuple[int, ast.expr]]:
    star = next((i for i, e in enumerate(written) if isinstance(e, ast.Starred)), len(written))
    yield from zip(range(count), written[:star], strict=False)
    behind = len(written) - star - 1
    for number in range(behind):
        if count - behind + number >= star:
            yield count - behind + number, written[star + 1 + number]


def _index(written: ast.expr, value: Any, where: tuple[int | str, ...]) -> Words:
    """The same for what stands between the brackets of a subscript: bounds of slices in tuples."""
    if isinstance(value, tuple) and isinstance(written, ast.Tuple) and len(value) == len(written.elts):
        parts = [_index(e, v, (*where, i)) for i, (e, v) in enumerate(zip(written.elts, value, strict=True))]
        return {place: word for part in parts for place, word in part.items()}
    if isinstance(value, slice) and isinstance(written, ast.Slice):
        bounds = (("start", written.lower), ("stop", written.upper), ("step", written.step))
        given = [(n, e) for n, e in bounds if e is not None and type(getattr(value, n)) in (int, float)]
        return {(*where, name): word for name, e in given if (word := word_of(e))}
    return {}
