"""Long lists of numbers, which stand as tables above the classes."""

from __future__ import annotations

import ast

from fxprune.codegen.names import Names
from fxprune.codegen.structured.expression_text import text
from fxprune.codegen.structured.printer import WIDTH

__all__ = ["Tables"]

LONG = 36  # columns that a list may take among other code


class Tables(ast.NodeTransformer):
    """Puts names in the place of long lists of numbers; the same list has one name."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.known: dict[str, tuple[str, ast.List]] = {}

    def visit_List(self, node: ast.List) -> ast.AST:
        shown = text(node)
        plain = bool(node.elts) and all(_is_number(e) or _is_row(e) for e in node.elts)
        if not plain or len(shown) <= LONG:
            return self.generic_visit(node)
        if shown not in self.known:
            number = len(self.known) + 1
            name = "WIDTHS" if number == 1 else f"WIDTHS_{number}"
            self.known[shown] = self.names.declare(name), node
        return ast.Name(self.known[shown][0])

    def lines(self) -> list[str]:
        """The tables, with two empty lines after the last."""
        lines: list[str] = []
        for shown, (name, node) in self.known.items():
            if len(name) + 3 + len(shown) <= WIDTH:
                lines.append(f"{name} = {shown}")
            elif all(map(_is_row, node.elts)):
                rows = [f"{name} = [", *(f"    {text(row)}," for row in node.elts), "]"]
                long = max(map(len, rows)) > WIDTH  # a formatter would give each number its line
                lines += ["# fmt: off", *rows, "# fmt: on"] if long else rows
            else:
                lines += ["# fmt: off", f"{name} = [", *_filled([text(e) for e in node.elts]), "]", "# fmt: on"]
        return [*lines, "", ""] if lines else []


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float))


def _is_row(node: ast.expr) -> bool:
    return isinstance(node, ast.Tuple) and all(map(_is_number, node.elts))


def _filled(numbers: list[str]) -> list[str]:
    """As many numbers a line as it has room for."""
    lines, line = [], "   "
    for number in numbers:
        if len(line) + len(number) + 2 > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {number},"
    return [*lines, line]
