"""Statements of generated classes, broken where ruff's formatter breaks them."""

from __future__ import annotations

import ast

import pytest

from fxprune.codegen.structured.printer import lines_of

BROKEN = {
    "the call at the end": """
        y = y_and_more_names_here * F.interpolate_me(
            z_some_name_long, size_and_more, two
        )
""",
    "after another rank": """
        y = y_and_more_names * other + F.interpolate_me_now(
            z_some_name_long, size_and_more_of_it
        )
""",
    "several of one rank": """
        y = (
            y_and_more_names
            + other
            + F.interpolate_me_now(z_some_name_long, size_and_more_of_it)
        )
""",
    "without arguments": """
        y = (
            y_and_more_names_here_and_more_than_that_is_given_here
            * self.function_of_some_length()
        )
""",
    "no room before the call's brackets": """
        y = (
            y_and_more_names_here_and_more_than_that_is_given_here_and_so_on_until_the_e
            * function(a, b)
        )
""",
    "no room before the brackets of the only call": """
        separable_1 = (
            self.reduction_cell_0.comb_iter_0_left.separable_1.pointwise_convolution(
                comb_iter_0_left
            )
        )
""",
    "no room even in brackets of its own": """
        separable_1 = self.reduction_cell_0.comb_iter_0_left.separable_1.pointwise_convolutions_of_it(
            comb_iter_0_left
        )
""",
    "a dictionary made in a loop": """
        super().__init__(
            {
                f"some_part_of_it{i}": PartOfIt(some_argument, a, b)
                for i, (a, b) in enumerate(widths_of_parts, 1)
            },
        )
""",
}


@pytest.mark.parametrize("expected", BROKEN.values(), ids=BROKEN)
def test_long_statements(expected: str) -> None:
    joined = " ".join(expected.split()).replace("( ", "(").replace(" )", ")").replace(", )", ")").replace(",)", ")")
    lines = lines_of(ast.parse(joined).body, 8)
    assert "\n".join(lines) == expected.strip("\n")
