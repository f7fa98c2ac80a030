"""Statements of the syntax tree as lines, broken where ruff's formatter breaks them (its default style, 88 columns)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence

from fxprune.codegen.literals import quoted
from fxprune.codegen.structured.expression_text import ATOM, items, loops, operator_of, parts, precedence, slices, text

__all__ = ["WIDTH", "lines_of"]

WIDTH = 88
_BROKEN = (ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.DictComp, ast.GeneratorExp)


def lines_of(statements: Iterable[ast.stmt], indent: int = 0) -> list[str]:
    """The lines of some statements; classes have two empty lines after them, methods one before; ``...`` is an empty line."""
    lines: list[str] = []
    for statement in statements:
        lines += _statement(statement, indent)
    return lines


def _statement(node: ast.stmt, indent: int) -> list[str]:
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return _assignment(node, indent)
    if isinstance(node, ast.Return):
        return _laid("return " if node.value else "return", node.value, indent)
    if isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Constant) and node.value.value is Ellipsis:
            return [""]
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return [f'{" " * indent}"""{node.value.value}"""']
        return _laid("", node.value, indent)
    if isinstance(node, ast.Assert):
        return _assert(node, indent)
    if isinstance(node, ast.Raise):
        return _laid("raise ", node.exc, indent)
    if isinstance(node, ast.Delete):
        return [f"{' ' * indent}del {', '.join(map(text, node.targets))}"]
    if isinstance(node, ast.Pass):
        return [f"{' ' * indent}pass"]
    return _block(node, indent)


def _assignment(node: ast.Assign | ast.AnnAssign | ast.AugAssign, indent: int) -> list[str]:
    if isinstance(node, ast.AugAssign):
        return _laid(f"{text(node.target)} {operator_of(node)}= ", node.value, indent)
    if isinstance(node, ast.AnnAssign):
        return _laid(f"{text(node.target)}: {text(node.annotation)}{' = ' if node.value else ''}", node.value, indent)
    shown = [", ".join(map(text, t.elts)) if isinstance(t, ast.Tuple) and t.elts else text(t) for t in node.targets]
    return _laid("".join(f"{target} = " for target in shown), node.value, indent)


def _block(node: ast.stmt, indent: int) -> list[str]:
    margin, inner = " " * indent, indent + 4
    if isinstance(node, ast.ClassDef):
        bases = f"({', '.join(map(text, node.bases))})" if node.bases else ""
        decorators = [f"{margin}@{text(d)}" for d in node.decorator_list]
        lines = [*decorators, f"{margin}class {node.name}{bases}:"]
        for number, statement in enumerate(node.body):
            lines += ["", *lines_of([statement], inner)] if number else lines_of([statement], inner)
        return [*lines, "", ""]
    if isinstance(node, ast.FunctionDef):
        return _function(node, indent)
    if isinstance(node, ast.If):
        lines = [f"{margin}if {text(node.test)}:", *lines_of(node.body, inner)]
        return [*lines, *([f"{margin}else:", *lines_of(node.orelse, inner)] if node.orelse else [])]
    if isinstance(node, ast.For):
        return [f"{margin}for {text(node.target)} in {text(node.iter)}:", *lines_of(node.body, inner)]
    if isinstance(node, ast.With):
        return [f"{margin}with {', '.join(text(i.context_expr) for i in node.items)}:", *lines_of(node.body, inner)]
    raise NotImplementedError(ast.dump(node))


def _function(node: ast.FunctionDef, indent: int) -> list[str]:
    margin, first = " " * indent, node.args.args
    defaults: list[ast.expr | None] = [None] * (len(first) - len(node.args.defaults))
    defaults += node.args.defaults
    shown = []
    for argument, default in zip(first, defaults, strict=True):
        kind = f": {text(argument.annotation)}" if argument.annotation else ""
        value = "" if default is None else f" = {text(default)}" if kind else f"={text(default)}"
        shown.append(f"{argument.arg}{kind}{value}")
    if node.args.vararg is not None:
        kind = f": {text(node.args.vararg.annotation)}" if node.args.vararg.annotation else ""
        shown.append(f"*{node.args.vararg.arg}{kind}")
    if node.args.kwarg is not None:
        kind = f": {text(node.args.kwarg.annotation)}" if node.args.kwarg.annotation else ""
        shown.append(f"**{node.args.kwarg.arg}{kind}")
    end = f") -> {text(node.returns)}:" if node.returns else "):"
    head = f"{margin}def {node.name}("
    if len(head) + len(", ".join(shown)) + len(end) <= WIDTH:
        opening = [head + ", ".join(shown) + end]
    else:
        one = [f"{' ' * (indent + 4)}{shown[0]},"] if len(shown) == 1 else []  # which has a comma of its own
        opening = [head, *(one or _listed(shown, indent + 4)), margin + end]
    return [*opening, *lines_of(node.body, indent + 4)]


def _listed(shown: Sequence[str], indent: int) -> list[str]:
    joined = " " * indent + ", ".join(shown)
    return [joined] if len(joined) <= WIDTH else [f"{' ' * indent}{item}," for item in shown]


def _assert(node: ast.Assert, indent: int) -> list[str]:
    margin, test = " " * indent, text(node.test)
    if node.msg is None:
        return _laid("assert ", node.test, indent)
    message = text(node.msg)
    line = f"{margin}assert {test}, {message}"
    if len(line) <= WIDTH:
        return [line]
    pieces = [message]
    if indent + 4 + len(message) > WIDTH and isinstance(node.msg, ast.Constant) and isinstance(node.msg.value, str):
        pieces = _pieces(node.msg.value, WIDTH - indent - 6)
    return [f"{margin}assert {test}, (", *(f"{margin}    {piece}" for piece in pieces), f"{margin})"]


def _pieces(message: str, width: int) -> list[str]:
    """A long text as literals that follow one another, broken at its spaces."""
    pieces = [""]
    for word in re.split(r"(?<= )", message):
        if pieces[-1] and len(quoted(pieces[-1] + word)) > width + 2:
            pieces.append("")
        pieces[-1] += word
    return [quoted(piece) for piece in pieces]


def _laid(head: str, value: ast.expr | None, indent: int, tail: str = "") -> list[str]:
    """`head`, an expression and `tail`, on one line where it has room."""
    margin = " " * indent
    if value is None:
        return [margin + head + tail]
    shown = text(value)[1:-1] if isinstance(value, ast.Tuple) and len(value.elts) > 1 and head == "return " else text(value)
    if indent + len(head) + len(shown) + len(tail) <= WIDTH:
        return [margin + head + shown + tail]
    if isinstance(value, ast.Starred):
        return _laid(f"{head}*", value.value, indent, tail)
    if isinstance(value, (ast.BinOp, ast.IfExp, ast.BoolOp, ast.Compare)):
        return _operation(head, value, indent, tail)
    if head and (chain := _chain(value)):
        lines = [f"{margin}    {shown}"]
        if indent + 4 + len(shown) > WIDTH:
            lines = [line for piece, node in chain for line in _piece(piece, node, indent + 4)]
        return [f"{margin}{head}(", *lines, f"{margin}){tail}"]
    if isinstance(value, (ast.Call, ast.Subscript, ast.Attribute)):
        lines = _in_turn(head, value, indent, tail)
        if len(lines[0]) > WIDTH and head.endswith(("= ", "return ")):  # there is no room before the first bracket
            inner = _in_turn("", value, indent + 4, "")
            return lines if len(inner[0]) > WIDTH else [f"{margin}{head}(", *inner, f"{margin}){tail}"]
        return lines
    return _broken(head, value, indent, tail) if isinstance(value, _BROKEN) else [margin + head + shown + tail]


def _in_turn(head: str, value: ast.expr, indent: int, tail: str) -> list[str]:
    """Calls and subscripts that follow one another: brackets are opened where what follows has no room, the first first."""
    links, end = _links(value)
    lines: list[str] = []
    line = " " * indent + head
    for number, (lead, node) in enumerate(links):
        line += lead
        flat = _brackets(node)
        behind = end + tail
        for text_, other in reversed(links[number + 1 :]):
            empty = isinstance(other, ast.Call) and not (other.args or other.keywords)
            behind = f"{text_}(){behind}" if empty else f"{text_}("
        if len(line) + len(flat) + len(behind) <= WIDTH or flat == "()":
            line += flat
        else:
            lines += [line + flat[0], *_inside(node, indent + 4)]
            line = " " * indent + flat[-1]
    return [*lines, line + end + tail]


def _links(value: ast.expr) -> tuple[list[tuple[str, ast.Call | ast.Subscript]], str]:
    """Each call and subscript of a chain after the text before its bracket, and the text after the last."""
    links: list[tuple[str, ast.Call | ast.Subscript]] = []
    nodes: list[ast.expr] = []
    while isinstance(value, (ast.Call, ast.Subscript, ast.Attribute)):
        nodes.append(value)
        value = value.func if isinstance(value, ast.Call) else value.value
    lead = text(value, ATOM)
    for node in reversed(nodes):
        if isinstance(node, ast.Attribute):
            lead += f".{node.attr}"
        else:
            links.append((lead, node))  # type: ignore[arg-type]
            lead = ""
    return links, lead


def _inside(node: ast.Call | ast.Subscript, indent: int) -> list[str]:
    """What stands between opened brackets."""
    if isinstance(node, ast.Subscript):
        if indent + len(slices(node)) <= WIDTH or not isinstance(node.slice, ast.Tuple):
            return [f"{' ' * indent}{slices(node)}"]
        lines: list[str] = []
        for place in node.slice.elts:
            bounds = isinstance(place, ast.Slice)
            lines += [f"{' ' * indent}{slices(ast.Subscript(node.value, place))},"] if bounds else _laid("", place, indent, ",")
        return lines
    given = parts(node)
    joined = " " * indent + ", ".join(prefix + text(item) for prefix, item in given)
    if len(joined) <= WIDTH:
        return [joined]
    lines = []
    for prefix, item in given:
        lone = len(given) == 1 and (prefix == "**" or isinstance(item, (ast.GeneratorExp, ast.Starred)))
        lines += _laid(prefix, item, indent, "" if lone else ",")
    return lines


def _broken(head: str, value: ast.expr, indent: int, tail: str) -> list[str]:
    """A display or comprehension whose brackets are opened."""
    margin, inner = " " * indent, indent + 4
    if isinstance(value, (ast.ListComp, ast.DictComp, ast.GeneratorExp)):
        opening, closing = {ast.ListComp: ("[", "]"), ast.DictComp: ("{", "}")}.get(type(value), ("(", ")"))
        named = isinstance(value, ast.DictComp)
        body = _laid(f"{text(value.key)}: ", value.value, inner) if named else _laid("", value.elt, inner)  # type: ignore[union-attr]
        (loop,) = value.generators
        target = loops(value).partition(" in ")[0]
        return [f"{margin}{head}{opening}", *body, *_laid(f"{target} in ", loop.iter, inner), f"{margin}{closing}{tail}"]
    opening, closing = {ast.List: ("[", "]"), ast.Dict: ("{", "}")}.get(type(value), ("(", ")"))
    given = parts(value)
    if not given:
        return [margin + head + text(value) + tail]
    lines = [f"{margin}{head}{opening}"]
    for prefix, item in given:
        lines += _laid(prefix, item, inner, ",")
    return [*lines, f"{margin}{closing}{tail}"]


def _operation(head: str, value: ast.expr, indent: int, tail: str) -> list[str]:
    margin, inner = " " * indent, " " * (indent + 4)
    shown = text(value)
    if isinstance(value, ast.BinOp) and (opened := _last_opened(head, value, indent, tail)):
        return opened
    if len(inner) + len(shown) <= WIDTH:
        body = [f"{inner}{shown}"]
    elif isinstance(value, ast.BinOp):
        body = [f"{inner}{part}" for part in _terms(value)]
    elif isinstance(value, ast.IfExp):
        rest = (f"if {text(value.test, 2)}", f"else {text(value.orelse, 1)}")
        body = [*_laid("", value.body, indent + 4), *(f"{inner}{part}" for part in rest)]
    else:
        body = [f"{inner}{shown}"]
    return [f"{margin}{head}(", *body, f"{margin}){tail}"]


def _last_opened(head: str, value: ast.BinOp, indent: int, tail: str) -> list[str] | None:
    """``a * f(...)`` with the brackets of the call opened, if the operator is the only one of its rank."""
    level, call = precedence(value), value.right
    if isinstance(value.left, ast.BinOp) and precedence(value.left) == level:
        return None
    if not isinstance(call, ast.Call) or not (call.args or call.keywords) or _links(call)[0][0][1] is not call:
        return None
    head = f"{head}{text(value.left, level)} {operator_of(value)} "
    room = indent + len(head) + len(text(call.func)) < WIDTH
    return _in_turn(head, call, indent, tail) if room else None


def _terms(value: ast.expr) -> list[str]:
    """The operands of one precedence, each with the operator before it."""
    level, terms = precedence(value), []
    while isinstance(value, ast.BinOp) and precedence(value) == level:
        terms.append(f"{operator_of(value)} {text(value.right, level + 1)}")
        value = value.left
    return [text(value, level), *terms[::-1]]


def _chain(value: ast.expr) -> list[tuple[str, ast.expr]]:
    """``x[0]``, ``.a(...)``, ``.b(...)``: what follows brackets, piece by piece, if there are two or more of these.

    Each with the expression that ends with it.
    """
    pieces: list[tuple[str, ast.expr]] = []
    last, end = value, text(value)
    while isinstance(value, (ast.Call, ast.Subscript, ast.Attribute)):
        owner = value.func if isinstance(value, ast.Call) else value.value
        if isinstance(value, ast.Attribute) and isinstance(owner, (ast.Call, ast.Subscript)):
            start = text(owner)
            pieces.append((end[len(start) :], last))
            last, end = owner, start
        value = owner
    return [(end, last), *pieces[::-1]] if len(pieces) > 1 else []


def _piece(piece: str, node: ast.expr, indent: int) -> list[str]:
    """A piece of a chain, whose last brackets are opened if it has no room."""
    if indent + len(piece) <= WIDTH or not isinstance(node, (ast.Call, ast.Subscript)):
        return [" " * indent + piece]
    flat = _brackets(node)
    return [" " * indent + piece[: -len(flat)] + flat[0], *_inside(node, indent + 4), " " * indent + flat[-1]]


def _brackets(node: ast.Call | ast.Subscript) -> str:
    return f"({', '.join(items(node))})" if isinstance(node, ast.Call) else f"[{slices(node)}]"
