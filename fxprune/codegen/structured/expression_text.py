"""Expressions of the syntax tree as text on one line, spaced and quoted as ruff formats them."""

from __future__ import annotations

import ast

from fxprune.codegen.literals import quoted

__all__ = ["items", "precedence", "slices", "text"]

# A larger number binds tighter.
IF, OR, AND, NOT, COMPARE, UNARY, POWER, ATOM = 1, 2, 3, 4, 5, 12, 13, 15
_BINARY = {
    ast.BitOr: ("|", 6),
    ast.BitXor: ("^", 7),
    ast.BitAnd: ("&", 8),
    ast.LShift: ("<<", 9),
    ast.RShift: (">>", 9),
    ast.Add: ("+", 10),
    ast.Sub: ("-", 10),
    ast.Mult: ("*", 11),
    ast.MatMult: ("@", 11),
    ast.Div: ("/", 11),
    ast.FloorDiv: ("//", 11),
    ast.Mod: ("%", 11),
    ast.Pow: ("**", POWER),
}
_COMPARE = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
_UNARY = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~", ast.Not: "not "}


def operator_of(node: ast.BinOp | ast.AugAssign) -> str:
    """The operator of an arithmetic expression, or of an augmented assignment without its ``=``."""
    return _BINARY[type(node.op)][0]


def precedence(node: ast.expr) -> int:
    """How tightly an expression binds."""
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)][1]
    if isinstance(node, ast.UnaryOp):
        return NOT if isinstance(node.op, ast.Not) else UNARY
    if isinstance(node, ast.BoolOp):
        return AND if isinstance(node.op, ast.And) else OR
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return UNARY if node.value < 0 else ATOM
    return {ast.Compare: COMPARE, ast.IfExp: IF, ast.Starred: 0}.get(type(node), ATOM)


def text(node: ast.expr, level: int = 0) -> str:
    """An expression, in parentheses if it binds less than `level`.

    Raises:
        NotImplementedError: generated code has no such expression.
    """
    shown = _text(node)
    return f"({shown})" if precedence(node) < level else shown


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        value = node.value
        return quoted(value) if isinstance(value, str) else "..." if value is Ellipsis else repr(value)
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        number = isinstance(node.value, ast.Constant) and type(node.value.value) in (int, float)
        return f"({text(node.value)}).{node.attr}" if number else f"{text(node.value, ATOM)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{text(node.func, ATOM)}({', '.join(items(node))})"
    if isinstance(node, ast.Subscript):
        return f"{text(node.value, ATOM)}[{slices(node)}]"
    if isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.Dict)):
        inner = ", ".join(items(node))
        if isinstance(node, ast.Tuple):
            return f"({inner},)" if len(node.elts) == 1 else f"({inner})"
        return f"[{inner}]" if isinstance(node, ast.List) else f"{{{inner}}}"
    if isinstance(node, ast.DictComp):
        return f"{{{text(node.key)}: {text(node.value)} {loops(node)}}}"
    if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
        inner = f"{text(node.elt)} {loops(node)}"
        return f"[{inner}]" if isinstance(node, ast.ListComp) else f"({inner})"
    if isinstance(node, ast.Starred):
        return f"*{text(node.value, ATOM)}"
    return _operation(node)


def _operation(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        symbol, level = _BINARY[type(node.op)]
        if isinstance(node.op, ast.Pow):
            left, right = text(node.left, POWER + 1), text(node.right, UNARY)
            close = _simple(node.left) and _simple(node.right)
            return f"{left}**{right}" if close else f"{left} ** {right}"
        return f"{text(node.left, level)} {symbol} {text(node.right, level + 1)}"
    if isinstance(node, ast.UnaryOp):
        level = NOT if isinstance(node.op, ast.Not) else UNARY
        return f"{_UNARY[type(node.op)]}{text(node.operand, level)}"
    if isinstance(node, ast.Compare):
        parts = [text(node.left, COMPARE + 1)]
        for operation, operand in zip(node.ops, node.comparators, strict=True):
            parts += [_COMPARE[type(operation)], text(operand, COMPARE + 1)]
        return " ".join(parts)
    if isinstance(node, ast.BoolOp):
        level = precedence(node)
        return (" and " if level == AND else " or ").join(text(value, level + 1) for value in node.values)
    if isinstance(node, ast.IfExp):
        return f"{text(node.body, OR)} if {text(node.test, OR)} else {text(node.orelse, IF)}"
    if isinstance(node, ast.JoinedStr):
        shown = [str(p.value) if isinstance(p, ast.Constant) else f"{{{text(p.value)}}}" for p in node.values]  # type: ignore[attr-defined]
        return f'f"{"".join(shown)}"'
    raise NotImplementedError(ast.dump(node))


def loops(node: ast.ListComp | ast.GeneratorExp | ast.DictComp) -> str:
    """The ``for`` of a comprehension."""
    (loop,) = node.generators
    target = ", ".join(map(text, loop.target.elts)) if isinstance(loop.target, ast.Tuple) else text(loop.target)
    return f"for {target} in {text(loop.iter, OR)}"


def items(node: ast.expr) -> list[str]:
    """What stands between the brackets of a call or a display, item by item."""
    return [prefix + text(value, 0) for prefix, value in parts(node)]


def parts(node: ast.expr) -> list[tuple[str, ast.expr]]:
    """The same: what is written before a value (the name of an argument, a key), and the value."""
    if isinstance(node, ast.Call):
        named = [(f"{word.arg}=" if word.arg else "**", word.value) for word in node.keywords]
        return [*(("", value) for value in node.args), *named]
    if isinstance(node, ast.Dict):
        keys = [f"{text(key)}: " if key else "**" for key in node.keys]
        return [*zip(keys, node.values, strict=True)]
    return [("", value) for value in node.elts]  # type: ignore[attr-defined]


def slices(node: ast.Subscript) -> str:
    """What stands between the brackets of a subscript."""
    index = node.slice
    if isinstance(index, ast.Tuple) and index.elts:
        return ", ".join(map(_slice, index.elts)) + ("," if len(index.elts) == 1 else "")
    return _slice(index)


def _slice(part: ast.expr) -> str:
    if not isinstance(part, ast.Slice):
        return text(part)
    given = [bound for bound in (part.lower, part.upper, part.step) if bound is not None]
    space = "" if all(map(_bare, given)) else " "
    lower = f"{text(part.lower)}{space}" if part.lower else ""
    upper = f"{space}{text(part.upper)}" if part.upper else ""
    return f"{lower}:{upper}" + (f"{space}:{space}{text(part.step)}" if part.step else "")


def _bare(node: ast.expr) -> bool:
    """Whether ruff sets no spaces around the colon of a slice for this bound: names, numbers."""
    if isinstance(node, ast.UnaryOp):
        return not isinstance(node.op, ast.Not) and _bare(node.operand)
    return isinstance(node, (ast.Name, ast.Constant))


def _simple(node: ast.expr) -> bool:
    """Whether ruff sets no spaces around ``**`` for this operand: names, attributes of names, numbers."""
    if isinstance(node, ast.UnaryOp):
        return not isinstance(node.op, ast.Not) and _simple(node.operand)
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, (ast.Name, ast.Constant))
