"""Expressions that are values by themselves: numbers, truth values, None, layers of torch.nn, and rows of these."""

from __future__ import annotations

import ast

__all__ = ["SHARED", "alike", "is_layer", "is_plain", "is_shared"]

SHARED = "_shared_"  # with a number: stands for a module that is made elsewhere and handed in


def is_plain(node: ast.AST) -> bool:
    """Whether an expression is a number, a truth value, None, a module that is handed in, or a tuple of such."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (bool, int, float)) or node.value is None
    if isinstance(node, ast.Attribute):
        return is_layer(node)
    if isinstance(node, ast.Name):
        return is_shared(node)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and is_plain(node.operand)
    return isinstance(node, (ast.Tuple, ast.List)) and bool(node.elts) and all(map(is_plain, node.elts))


def alike(values: list[ast.expr]) -> bool:
    """Whether values can be those of one argument."""
    kinds = {_kind(value) for value in values}
    return len(kinds) == 1 or kinds == {"int", "float"} or kinds == {"int", "pair"}


def is_layer(node: ast.AST) -> bool:
    """Whether an expression is a class of torch.nn."""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nn"


def is_shared(node: ast.AST) -> bool:
    """Whether a module that is made elsewhere stands there."""
    return isinstance(node, ast.Name) and node.id.startswith(SHARED)


def _kind(value: ast.expr) -> str:
    if is_layer(value):
        return "layer"
    if is_shared(value):
        return "module"
    if isinstance(value, ast.Constant):
        return type(value.value).__name__
    if isinstance(value, ast.UnaryOp):
        return _kind(value.operand)
    if isinstance(value, ast.List):
        return "list"
    return "pair" if isinstance(value, ast.Tuple) and len(value.elts) == 2 else ast.dump(value)
