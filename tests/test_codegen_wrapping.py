"""Long lines."""

from __future__ import annotations

import pytest

from fxprune.codegen.wrapping import wrap


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x = f(a, b)", ["x = f(a, b)"]),
        ("x = torch.cat([alpha, beta], dim=1)", ["x = torch.cat(", "    [alpha, beta], dim=1", ")"]),
        ("x = f([gamma(alpha), gamma(beta)])", ["x = f([", "    gamma(alpha),", "    gamma(beta),", "])"]),
        ("x = [g(alphabet) for _ in range(3)]", ["x = [", "    g(alphabet)", "    for _ in range(3)", "]"]),
        ("x = alphabet[self.beta.gamma]", ["x = alphabet[", "    self.beta.gamma", "]"]),
        ("x = (alphabet + beta + gamma)", ["x = (alphabet + beta + gamma)"]),
        ('x = f("a, (b", alphabet, gamma)', ["x = f(", '    "a, (b",', "    alphabet,", "    gamma,", ")"]),
    ],
)
def test_wrap(text: str, lines: list[str]) -> None:
    assert wrap(text, width=26) == lines
