"""Statements of the syntax tree as lines, broken where ruff's formatter breaks them (its default style, 88 columns)."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from fxprune.codegen.structured.expression_text import ATOM, loops, operator_of, parts, precedence, slices, text

__all__ = ["WIDTH", "lines_of"]

WIDTH = 88
_BROKEN = (ast.Call, ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.GeneratorExp, ast.Subscript)


def lines_of(statements: Iterable[ast.stmt], indent: int = 0) -> list[str]:
    """The lines of some statements; classes have two empty lines after them, methods one before."""
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
    end = f") -> {text(node.returns)}:" if node.returns else "):"
    head = f"{margin}def {node.name}("
    if len(head) + len(", ".join(shown)) + len(end) <= WIDTH:
        opening = [head + ", ".join(shown) + end]
    else:
        opening = [head, *_listed(shown, indent + 4), margin + end]
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
    if len(line) <= WIDTH or indent + 4 + len(message) > WIDTH:
        return [line]
    return [f"{margin}assert {test}, (", f"{margin}    {message}", f"{margin})"]


def _laid(head: str, value: ast.expr | None, indent: int, tail: str = "") -> list[str]:
    """`head`, an expression and `tail`, on one line where it has room."""
    margin = " " * indent
    if value is None:
        return [margin + head + tail]
    bare = isinstance(value, ast.Tuple) and len(value.elts) > 1 and head.strip() == "return"
    shown = text(value)[1:-1] if bare else text(value)
    if indent + len(head) + len(shown) + len(tail) <= WIDTH:
        return [margin + head + shown + tail]
    if isinstance(value, ast.Starred):
        return _laid(f"{head}*", value.value, indent, tail)
    if isinstance(value, (ast.BinOp, ast.IfExp, ast.BoolOp, ast.Compare)):
        return _operation(head, value, indent, tail)
    if chain := _chain(value):
        if head and indent + 4 + len(shown) <= WIDTH and not _ends_with_room(value, head, indent):
            return [f"{margin}{head}(", f"{margin}    {shown}", f"{margin}){tail}"]
        if head:
            return [f"{margin}{head}(", *(f"{margin}    {part}" for part in chain), f"{margin}){tail}"]
    return _broken(head, value, indent, tail) if isinstance(value, _BROKEN) else [margin + head + shown + tail]


def _broken(head: str, value: ast.expr, indent: int, tail: str) -> list[str]:
    """An expression whose last brackets are opened."""
    margin, inner = " " * indent, indent + 4
    if isinstance(value, ast.Subscript):
        return [f"{margin}{head}{text(value.value, ATOM)}[", f"{' ' * inner}{slices(value)}", f"{margin}]{tail}"]
    if isinstance(value, (ast.ListComp, ast.GeneratorExp)):
        opening, closing = ("[", "]") if isinstance(value, ast.ListComp) else ("(", ")")
        body = _laid("", value.elt, inner)
        (loop,) = value.generators
        target = loops(value).partition(" in ")[0]
        return [f"{margin}{head}{opening}", *body, *_laid(f"{target} in ", loop.iter, inner), f"{margin}{closing}{tail}"]
    opening, closing = {ast.List: ("[", "]"), ast.Dict: ("{", "}")}.get(type(value), ("(", ")"))
    before = head + (text(value.func, ATOM) if isinstance(value, ast.Call) else "")
    given = parts(value)
    if not given:
        return [margin + head + text(value) + tail]
    joined = " " * inner + ", ".join(prefix + text(item) for prefix, item in given)
    if isinstance(value, ast.Call) and len(joined) <= WIDTH:
        return [f"{margin}{before}{opening}", joined, f"{margin}{closing}{tail}"]
    lines = [f"{margin}{before}{opening}"]
    for prefix, item in given:
        lone = len(given) == 1 and isinstance(value, ast.Call) and (prefix == "**" or isinstance(item, ast.GeneratorExp))
        alone = isinstance(item, ast.Starred) and len(given) == 1
        lines += _laid(prefix, item, inner, "" if lone or alone else ",")
    return [*lines, f"{margin}{closing}{tail}"]


def _operation(head: str, value: ast.expr, indent: int, tail: str) -> list[str]:
    margin, inner = " " * indent, " " * (indent + 4)
    shown = text(value)
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


def _terms(value: ast.expr) -> list[str]:
    """The operands of one precedence, each with the operator before it."""
    level, terms = precedence(value), []
    while isinstance(value, ast.BinOp) and precedence(value) == level:
        terms.append(f"{operator_of(value)} {text(value.right, level + 1)}")
        value = value.left
    return [text(value, level), *terms[::-1]]


def _chain(value: ast.expr) -> list[str]:
    """``x.a(...)``, ``.b(...)`` of methods that follow one another, if there are two or more."""
    links: list[str] = []
    calls = 0
    while (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and isinstance(value.func.value, (ast.Call, ast.Subscript))
    ):
        whole, owner = text(value), text(value.func.value, ATOM)
        links.append(whole[len(owner) :])
        value, calls = value.func.value, calls + 1
    return [text(value), *links[::-1]] if calls else []


def _ends_with_room(value: ast.expr, head: str, indent: int) -> bool:
    return False
