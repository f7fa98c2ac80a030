"""The examples of README and the pages: runs them, and writes down what they print.

    python docs/examples.py [PAGE ...]

A fence of ``python`` is an example; the examples of a page run in order, in one namespace, in an empty folder. A fence of
``text`` right below one is what it prints: this command puts the real output there, and ``tests/test_docs.py`` runs the same
examples and compares. Two comments in a page say more of it:

    <!-- exact -->  figures are compared, too (else they may differ between processors)
    <!-- slow -->   the page takes more than a few seconds

and one, before them or after, which libraries it needs beside those of the tests: ``<!-- needs: timm, onnxruntime -->``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_EXAMPLE = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
_NEEDS = re.compile(r"<!-- needs: (.*?) -->")
_FIGURES = re.compile(r"\d[\d.,]*(e[+-]?\d+)?")


@dataclass(frozen=True)
class Example:
    """One example of a page.

    Attributes:
        line: of the page, where the code starts.
        output: what the page says it prints; None if it says nothing.
        span: where that text stands in the page.
    """

    code: str
    line: int
    output: str | None
    span: tuple[int, int]


def pages() -> list[Path]:
    """All files with examples."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "pages").rglob("*.md"))]


def examples(text: str) -> list[Example]:
    """The examples of a page, in order."""
    return [
        Example(m["code"], 1 + text.count("\n", 0, m.start("code")), m["output"], m.span("output"))
        for m in _EXAMPLE.finditer(text)
    ]


def needs(text: str) -> list[str]:
    """Libraries that a page says it needs."""
    return [name.strip() for found in _NEEDS.findall(text) for name in found.split(",")]


def run(page: Path) -> Iterator[tuple[Example, str]]:
    """Run the examples of a page in the present folder; each with what it printed."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for example in examples(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        code = "\n" * (example.line - 1) + example.code  # so that errors name the page's own lines
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec", dont_inherit=True), namespace)
        yield example, printed.getvalue()


def same(found: str, expected: str, exact: bool) -> bool:
    """Whether an output is what the page says; figures may differ unless it must be exact."""
    if not exact:
        found, expected = _FIGURES.sub("#", found), _FIGURES.sub("#", expected)
    return [line.split() for line in found.splitlines()] == [line.split() for line in expected.splitlines()]


def fill(page: Path) -> None:
    """Put what the examples really print below them."""
    made = [*run(page)]
    text = page.read_text(encoding="utf-8")
    for example, printed in reversed(made):
        if example.output is not None:
            low, high = example.span
            text = text[:low] + printed + text[high:]
    page.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Fill the pages that are named, or all."""
    import torch

    torch.set_num_threads(1)
    home = Path.cwd()
    for page in [home / name for name in arguments] or pages():
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                fill(page)
            finally:
                os.chdir(home)
        print(page.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
