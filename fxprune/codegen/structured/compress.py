"""Containers of parts that differ in few numbers, as comprehensions.

nn.Sequential(Block(64, 8), Block(64, 7), Block(64, 9))   ->   nn.Sequential(*[Block(64, n) for n in [8, 7, 9]])
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from fxprune.codegen.structured.expression_text import text
from fxprune.codegen.structured.plain import is_plain
from fxprune.codegen.structured.unify import Defaults, Mismatch, Site, Unifier

__all__ = ["compressed", "keyed"]

LONG = 64  # a part that takes more columns than this is better made in a loop over a table


def compressed(node: ast.AST, defaults: Defaults) -> ast.AST:
    """`node`, in which containers of similar parts are comprehensions."""
    return _Compress(defaults).visit(node)


def keyed(names: Sequence[str], parts: Sequence[ast.expr]) -> ast.DictComp | None:
    """``{"layer1": Layer(8, 4), "layer2": Layer(12, 4)}`` over a table of all numbers; None where parts are not of one class.

    {f"layer{i}": Layer(a, b) for i, (a, b) in enumerate([(8, 4), (12, 4)], 1)}
    """
    stem = names[0].rstrip("0123456789")
    start = int(names[0][len(stem) :] or -1)
    if [*names] != [f"{stem}{start + i}" for i in range(len(names))]:
        return None
    calls = [part for part in parts if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)]
    if len(calls) < len(parts) or len({(ast.dump(c.func), len(c.args), *map(ast.dump, c.keywords)) for c in calls}) > 1:
        return None
    if not all(is_plain(value) for call in calls for value in call.args):
        return None
    first = calls[0]
    if len(first.args) > len(LETTERS):
        return None
    variables: list[ast.expr] = [ast.Name("n" if len(first.args) == 1 else LETTERS[i]) for i in range(len(first.args))]
    number: ast.expr = ast.Name("i")
    key = ast.JoinedStr([ast.Constant(stem), ast.FormattedValue(number, -1)])
    if variables:
        rows = [call.args[0] if len(variables) == 1 else ast.Tuple(call.args, ast.Load()) for call in calls]
        target: ast.expr = ast.Tuple([number, variables[0] if len(variables) == 1 else ast.Tuple(variables, ast.Store())])
        given = [ast.List(rows, ast.Load()), *([ast.Constant(start)] if start else [])]
        loop = ast.comprehension(target, ast.Call(ast.Name("enumerate"), given, []), [], 0)
    else:
        bounds: list[ast.expr] = [*([ast.Constant(start)] if start else []), ast.Constant(start + len(calls))]
        loop = ast.comprehension(number, ast.Call(ast.Name("range"), bounds, []), [], 0)
    return ast.DictComp(key, ast.Call(first.func, variables, first.keywords), [loop])


LETTERS = "abcdefghjklmnopqrstuvwxyz"


class _Compress(ast.NodeTransformer):
    def __init__(self, defaults: Defaults) -> None:
        self.defaults = defaults

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name == "nn.Sequential" and len(node.args) > 1:
            made = self._comprehension(node.args)
            if made is not None:
                return ast.Call(node.func, [ast.Starred(made, ast.Load())], [])
            node.args = self._runs(node.args)
            return node
        listed = node.args[0] if len(node.args) == 1 else None
        if name == "nn.ModuleList" and isinstance(listed, ast.List):
            made = self._comprehension(listed.elts)
            listed.elts = self._runs(listed.elts) if made is None else listed.elts
            return node if made is None else ast.Call(node.func, [made], [])
        if name == "OrderedDict" and isinstance(listed, ast.List):
            return self._named(node, listed.elts)
        return node

    def _named(self, node: ast.Call, pairs: Sequence[ast.expr]) -> ast.Call:
        """``OrderedDict([("layer_0", a), ("layer_1", b)])``: its names are numbered."""
        names = [pair.elts[0].value for pair in pairs]  # type: ignore[attr-defined]
        stem = names[0].rstrip("0123456789")
        if len(pairs) < 2 or names != [f"{stem}{i}" for i in range(len(names))]:
            return node
        made = self._comprehension([pair.elts[1] for pair in pairs])  # type: ignore[attr-defined]
        if made is None:
            return node
        (loop,) = made.generators
        number = ast.Name("i")
        key = ast.JoinedStr([ast.Constant(stem), ast.FormattedValue(number, -1)])
        same = ast.unparse(loop.target) == "_"
        if same:
            loop.target = number
        else:
            loop.target = ast.Tuple([number, loop.target], ast.Store())
            loop.iter = ast.Call(ast.Name("enumerate"), [loop.iter], [])
        made.elt = ast.Tuple([key, made.elt], ast.Load())
        return ast.Call(node.func, [made], [])

    def _runs(self, parts: Sequence[ast.expr]) -> list[ast.expr]:
        """The parts, in which three or more that follow one another and are alike are comprehensions."""
        found: list[ast.expr] = []
        start = 0
        while start < len(parts):
            stop, made = start + 1, None
            for end in range(start + 3, len(parts) + 1):
                longer = self._comprehension(parts[start:end])
                if longer is None:
                    break
                stop, made = end, longer
            found.append(parts[start] if made is None else ast.Starred(made, ast.Load()))
            start = stop
        return found

    def _comprehension(self, parts: Sequence[ast.expr]) -> ast.ListComp | None:
        names = {ast.unparse(part.func) if isinstance(part, ast.Call) else "" for part in parts}
        if len(parts) < 2 or len(names) > 1:
            return None
        name = names.pop()
        if not name or (name.startswith("nn.") and name != "nn.Sequential"):
            same = len({ast.dump(part) for part in parts}) == 1
            if not same or not name:
                return None
        unifier = Unifier(self.defaults)
        try:
            shared = unifier.one(parts, Site())
        except Mismatch:
            return None
        count = len(unifier.holes)
        if count > 1 and (len(parts) < 4 or max(len(text(part)) for part in parts) <= LONG):
            return None
        if not count:
            loop = ast.comprehension(ast.Name("_"), ast.parse(f"range({len(parts)})", mode="eval").body, [], 0)
            return ast.ListComp(shared, [loop])  # type: ignore[arg-type]
        variables = self._variables(unifier, count)
        shared = _Holes(variables).visit(shared)
        rows: list[ast.expr]
        if count == 1:
            target: ast.expr = ast.Name(variables["?0"])
            rows = [value for value in unifier.holes[0].values if value is not None]
        else:
            target = ast.Tuple([ast.Name(v) for v in variables.values()], ast.Store())
            rows = [ast.Tuple([hole.values[i] for hole in unifier.holes], ast.Load()) for i in range(len(parts))]  # type: ignore[misc]
        loop = ast.comprehension(target, ast.List(rows, ast.Load()), [], 0)
        return ast.ListComp(shared, [loop])

    def _variables(self, unifier: Unifier, count: int) -> dict[str, str]:
        if count == 1:
            return {"?0": "n"}
        return {f"?{i}": LETTERS[i] if i < len(LETTERS) else f"n{i}" for i in range(count)}


class _Holes(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self.names[node.id]) if node.id.startswith("?") else node
