"""What assertions about shapes say: one sentence while classes are compared, and the condition itself in the file.

assert x.size(1) == self.size, "traced for inputs where x.size(1) == self.size"
"""

from __future__ import annotations

import ast

from fxprune.codegen.structured.expression_text import text

__all__ = ["GUARD", "SAME", "say_conditions"]

GUARD = "traced for inputs where"  # what recording says of conditions on shapes
SAME = f"{GUARD} this holds"
LONG = 60  # columns that leave room for what stands around a condition


def say_conditions(definition: ast.ClassDef) -> None:
    """Have assertions say what they ask, as it is printed, unless it is too long for its line."""
    for node in ast.walk(definition):
        same = isinstance(node, ast.Assert) and isinstance(node.msg, ast.Constant) and node.msg.value == SAME
        if same and len(shown := text(node.test)) <= LONG:  # type: ignore[attr-defined]
            node.msg = ast.Constant(f"{GUARD} {shown}")  # type: ignore[attr-defined]
