"""Which expressions of a method are numbers in the slim model: those that became the arguments that the rewrite changed."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxprune.shrinking.changes import Change
from fxprune.shrinking.sized_code import SizedMethod, method_of, tree_of, with_expressions
from fxprune.tracing.words.trees import positions_of, spans_of

__all__ = ["Sizing", "sizing_of"]


@dataclass(frozen=True, eq=False)
class Sizing:
    """Expressions of the methods of one module, and what may stand in their place.

    Attributes:
        trees: method -> its class and syntax tree.
        expressions: ``(method, expression, what replaces it)``.
    """

    trees: Mapping[str, tuple[type, ast.FunctionDef]]
    expressions: Sequence[tuple[str, ast.AST, ast.AST]]

    def methods(self, module: nn.Module, left_out: frozenset[int] = frozenset()) -> dict[str, SizedMethod]:
        """The methods with these numbers in them, but for some expressions by their number."""
        made = {}
        for name, (kind, tree) in self.trees.items():
            new = {e[1]: e[2] for i, e in enumerate(self.expressions) if e[0] == name and i not in left_out}
            if new:
                made[name] = SizedMethod(module, with_expressions(tree, new), (kind.__module__, kind.__qualname__, name))
        return made

    def shown(self, left_out: frozenset[int] = frozenset()) -> dict[str, Any]:
        """``{expression: what stands in its place}``; one that stands in several places has all of theirs, in their order."""
        shown: dict[str, Any] = {}
        for number, (_, old, new) in enumerate(self.expressions):
            if number not in left_out:
                text = ast.unparse(old)
                shown[text] = ", ".join([*([shown[text]] if text in shown else []), ast.unparse(new)])
        return shown


def sizing_of(module: nn.Module, calls: Sequence[Change]) -> Sizing | None:
    """The expressions behind the numbers among the arguments of calls in a module's own methods; None if there are none."""
    trees: dict[str, tuple[type, ast.FunctionDef]] = {}
    found: dict[int, tuple[str, ast.AST, ast.AST]] = {}
    several: set[int] = set()
    for call in calls:
        place = call.old.meta.get("place")
        method = method_of(module, place[0]) if place else None
        tree = None if method is None else trees[method[1]][1] if method[1] in trees else tree_of(*method)
        if place is None or method is None or tree is None:
            continue
        trees.setdefault(method[1], (method[0], tree))
        expression = _expression_at(tree, place)
        for old, new in [] if expression is None else _replacements(expression, call):
            before = found.setdefault(id(old), (method[1], old, new))
            if ast.dump(before[2]) != ast.dump(new):
                several.add(id(old))  # the same code runs with several sizes
    expressions = [e for key, e in found.items() if key not in several and ast.dump(e[1]) != ast.dump(e[2])]
    return Sizing(trees, expressions) if expressions else None


def _expression_at(tree: ast.FunctionDef, place: Any) -> ast.AST | None:
    code, instruction = place
    positions = positions_of(code)
    where = positions[instruction // 2] if instruction // 2 < len(positions) else None
    if where is None or None in where:
        return None
    spans = (n for n in ast.walk(tree) if isinstance(n, (ast.Call, ast.Subscript)))
    return next((n for n in spans if where in spans_of(n)), None)


Pairs = list[tuple[ast.AST, ast.AST]]


def _replacements(expression: ast.AST, change: Change) -> Pairs:
    """Expressions of the code, and the numbers that they are in the slim graph."""
    old, new = change.old, change.new
    if isinstance(expression, ast.Subscript):
        return _indices(expression.slice, new.args[1]) if len(new.args) > 1 else []
    if not isinstance(expression, ast.Call):
        return []
    if old.target is not new.target and old.target != new.target:
        return _renamed(expression, new)
    named = {k.arg: k.value for k in expression.keywords}
    for name, value in new.kwargs.items():
        number = _number(value)
        if name not in named and old.kwargs.get(name) is None and number is not None and value is not False:
            return [(expression, _with_keyword(expression, name, number))]
    pairs = [pair for name, value in new.kwargs.items() if name in named for pair in _one(named[name], value)]
    return pairs + _by_place(expression, list(new.args[1 if old.op == "call_method" else 0 :]))


def _by_place(call: ast.Call, values: list[Any]) -> Pairs:
    """Arguments by position: of the code, and of the nodes; sizes may be one argument (``view((a, b))``) or several."""
    written: list[ast.expr] = list(call.args)
    together = bool(values) and isinstance(values[0], (tuple, list))
    if len(written) == 1 and isinstance(written[0], (ast.Tuple, ast.List)) and not together:
        written = list(written[0].elts)
    elif len(values) == 1 and together and len(written) > 1:
        values = list(values[0])
    return _items(written, values)


def _items(written: Sequence[ast.expr], values: Sequence[Any]) -> Pairs:
    """Where the code has ``*shape``, what comes after it is counted from the end."""
    starred = next((i for i, e in enumerate(written) if isinstance(e, ast.Starred)), None)
    pairs: Pairs = []
    for position, value in enumerate(values):
        place = position
        if starred is not None and position >= starred:
            place = position - len(values) + len(written)
            if place <= starred:
                continue
        if place < len(written):
            pairs += _one(written[place], value)
    return pairs


def _one(written: ast.expr, value: Any) -> Pairs:
    if isinstance(value, (tuple, list)) and isinstance(written, (ast.Tuple, ast.List)):
        return _items(written.elts, value)
    number = _number(value)
    return [] if number is None else [(written, number)]


def _indices(written: ast.expr, value: Any) -> Pairs:
    if isinstance(value, tuple):
        alike = isinstance(written, ast.Tuple) and len(written.elts) == len(value)
        return [p for part, v in zip(written.elts, value, strict=True) for p in _indices(part, v)] if alike else []  # type: ignore[attr-defined]
    if isinstance(value, slice):
        if not isinstance(written, ast.Slice):
            return []
        ends = ((written.lower, value.start), (written.upper, value.stop))
        return [(part, n) for part, v in ends if part is not None and (n := _number(v)) is not None]
    number = _number(value)
    return [] if number is None else [(written, number)]


def _renamed(call: ast.Call, new: fx.Node) -> Pairs:
    """``x.chunk(3, dim=-1) -> x.split([16, 16, 8], -1)``."""
    if not isinstance(call.func, ast.Attribute) or getattr(new.target, "__name__", new.target) != "split":
        return []
    numbers = [n for n in map(_number, new.args[1:]) if n is not None]
    if len(numbers) != len(new.args) - 1:
        return []
    first = [] if new.op == "call_method" else list(call.args[:1])
    return [(call, ast.Call(ast.Attribute(call.func.value, "split", ast.Load()), [*first, *numbers], []))]


def _with_keyword(call: ast.Call, name: str, number: ast.expr) -> ast.Call:
    return ast.Call(call.func, call.args, [*call.keywords, ast.keyword(name, number)])


def _number(value: Any) -> ast.expr | None:
    """The code of numbers; none of truth values."""
    if type(value) in (int, float):
        return ast.parse(repr(value), mode="eval").body
    if isinstance(value, (tuple, list)) and value:
        items = [n for n in map(_number, value) if n is not None]
        return (ast.Tuple if isinstance(value, tuple) else ast.List)(items, ast.Load()) if len(items) == len(value) else None
    return None
