"""The syntax trees of the model's own functions, with the positions that they have in their files."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import tokenize
from collections.abc import Iterator
from types import CodeType

__all__ = ["expression_at", "positions_of", "spans_of", "tree_of", "word_of"]

Span = tuple[int | None, int | None, int | None, int | None]  # line, last line, column, last column

_OF_TENSORS = frozenset({"shape", "size", "ndim", "dtype", "device"})


@functools.lru_cache(maxsize=1024)
def tree_of(code: CodeType) -> ast.FunctionDef | None:
    """The definition of a function; None where its file cannot be read or says something else by now."""
    lines = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]
    last = max(_ends(code), default=0)
    found = _parsed(lines[: last - code.co_firstlineno + 1], code.co_firstlineno) if last else None
    if found is None:  # or its end makes no instructions
        found = _parsed(_block(lines), code.co_firstlineno)
    return found if found is not None and found.name == code.co_name else None


def _parsed(lines: list[str], first: int) -> ast.FunctionDef | None:
    """The function that some lines define."""
    if not lines:
        return None
    inside = lines[0][:1].isspace()
    try:
        tree = ast.parse("".join(["if True:\n" * inside, *lines]))
    except (SyntaxError, ValueError, RecursionError):
        return None
    ast.increment_lineno(tree, first - 1 - inside)
    return next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), None)


def positions_of(code: CodeType) -> list[Span]:
    """Where each instruction of a function comes from; nothing where Python does not know (before 3.11)."""
    return [*code.co_positions()] if hasattr(code, "co_positions") else []


def spans_of(node: ast.expr) -> list[Span]:
    """The positions that Python may give the instruction of an expression: where it stands, and of a method whose name is on a
    later line than the beginning of its object, from that name on.
    """
    spans: list[Span] = [(node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)]
    if isinstance(node, ast.Call) and isinstance(called := node.func, ast.Attribute) and called.lineno != called.end_lineno:
        assert called.end_lineno is not None and called.end_col_offset is not None
        spans.append((called.end_lineno, node.end_lineno, called.end_col_offset - len(called.attr), node.end_col_offset))
    return spans


def _block(lines: list[str]) -> list[str]:
    try:
        return inspect.getblock(lines)
    except (SyntaxError, IndentationError, tokenize.TokenError):
        return []


def _ends(code: CodeType) -> Iterator[int]:
    yield from (end for _, end, _, _ in positions_of(code) if end)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _ends(inner)


@functools.lru_cache(maxsize=1024)
def _expressions(code: CodeType) -> tuple[list[Span], dict[Span, ast.expr]]:
    """Where each instruction of a function comes from, and the expressions there."""
    tree = tree_of(code)
    kinds = (ast.Call, ast.Subscript, ast.BinOp)
    found: dict[Span, ast.expr] = {}
    for node in [] if tree is None else ast.walk(tree):
        if isinstance(node, kinds):
            found |= dict.fromkeys(spans_of(node), node)
    return positions_of(code) if found else [], found


def expression_at(code: CodeType, instruction: int) -> ast.expr | None:
    """The call, subscript or arithmetic of a function that an instruction is of."""
    positions, found = _expressions(code)
    return found.get(positions[instruction // 2]) if instruction // 2 < len(positions) else None


def word_of(expression: ast.expr) -> str:
    """What the code calls a number: ``heads`` for ``heads``, ``self.heads`` and ``config.heads[0]``; or an empty text."""
    while isinstance(expression, ast.Subscript) and isinstance(expression.slice, ast.Constant):
        expression = expression.value
    word = ""
    if isinstance(expression, ast.Name):
        word = expression.id
    elif isinstance(expression, ast.Attribute):
        owner: ast.expr = expression
        while isinstance(owner, ast.Attribute):
            owner = owner.value
        word = expression.attr if isinstance(owner, ast.Name) else ""
    return "" if word in _OF_TENSORS or word == "self" else word.lstrip("_")
