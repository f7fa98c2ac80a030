"""The statements of several ``__init__``, side by side: those that assign the same attribute belong together."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from fxprune.codegen.structured.optional_parts import ABSENT

__all__ = ["Mismatch", "aligned", "is_absent"]


class Mismatch(Exception):
    """Texts that differ in more than numbers."""


def aligned(bodies: Sequence[Sequence[ast.stmt]]) -> dict[str, list[ast.stmt | None]]:
    """Attribute -> what assigns it in each text, in an order that all texts keep.

    Raises:
        Mismatch: there is no such order.
    """
    every = [{_assigned(s): s for s in body} for body in bodies]
    there = {name for known in every for name, s in known.items() if not is_absent(s)}
    keyed = [{name: s for name, s in known.items() if name not in there or not is_absent(s)} for known in every]
    if any(len(known) != len(body) for known, body in zip(every, bodies, strict=True)):
        raise Mismatch
    order: list[str] = []
    for known in sorted(keyed, key=len, reverse=True):
        place = 0
        for name in known:
            if name in order:
                if order.index(name) < place:
                    raise Mismatch
                place = order.index(name) + 1
            else:
                order.insert(place, name)
                place += 1
    return {name: [known.get(name) for known in keyed] for name in order}


def is_absent(statement: ast.stmt) -> bool:
    """Whether a statement makes a part that only other texts have."""
    made = statement.value if isinstance(statement, ast.Assign) else None
    return isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id == ABSENT


def _assigned(statement: ast.stmt) -> str:
    """The attribute of self that a statement assigns, or its variable; an empty text for the call of the base class."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
        return statement.targets[0].attr
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return f"local {statement.targets[0].id}"
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and len(statement.value.args) == 3:
        return f"setattr {ast.unparse(statement.value.args[1])}"
    if isinstance(statement, ast.Expr) and ast.unparse(statement).startswith("super()"):
        return ""
    raise Mismatch
