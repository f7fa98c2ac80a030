"""Write the table of criteria into its page, from the registry and the docstrings.

    python docs/criteria_table.py

What a criterion computes is the first sentence of its class; where it was published is said in its class or its file.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

from fxprune.criteria.observing import ActivationCriterion, GradientCriterion
from fxprune.criteria.registry import _NAMES

PAGE = Path(__file__).parent / "pages" / "criteria.md"
MARKS = ("<!-- table: begin (python docs/criteria_table.py) -->", "<!-- table: end -->")


def main() -> None:
    """Write the page again."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")


def filled(text: str) -> str:
    """A page with the table between its marks."""
    begin, end = MARKS
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{table()}\n\n{end}{rest.partition(end)[2]}"


def table() -> str:
    """Markdown: a row a criterion that comes with the package, in alphabetical order."""
    rows = ["| Name | Looks at | Score of a channel | Source |", "|---|---|---|---|"]
    for name, place in sorted(_NAMES.items()):
        module, _, attribute = place.partition(":")
        file = importlib.import_module(module)
        made = getattr(file, attribute)
        rows.append(
            f"| `{name}` | {looks_at(made)} | {cell(sentence(made.__doc__))} | {cell(source(made.__doc__, file.__doc__))} |"
        )
    return "\n".join(rows)


def looks_at(made: type) -> str:
    """What a criterion needs to see."""
    if issubclass(made, GradientCriterion):
        return "gradients"
    if issubclass(made, ActivationCriterion):
        return "activations, labels" if made.needs_labels else "activations"
    return "weights, costs" if getattr(made, "needs_analysis", False) else "weights"


def sentence(docstring: str | None) -> str:
    """The first sentence."""
    paragraph = inspect.cleandoc(docstring or "").partition("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[^A-Z].)\.\s", paragraph + " ", maxsplit=1)[0].rstrip(" .")


def source(own: str | None, of_file: str | None) -> str:
    """What the class says under "Published:", up to the year; else what its file's first paragraph says in brackets."""
    published = re.search(r"Published: (.*?\b(?:19|20)\d\d)\b", " ".join((own or "").split()))
    if published:
        return published[1]
    paragraph = inspect.cleandoc(of_file or "").partition("\n\n")[0].replace("\n", " ")
    found = re.search(r"\(((?:published|after|reconstruction).*)\)", paragraph)
    if not found and "(a baseline)" not in paragraph:
        raise SystemExit(f"no source in the first paragraph of a criterion's file: {paragraph!r}; see source()")
    return found[1].removeprefix("published: ") if found else "a baseline"


def cell(text: str) -> str:
    """Text that fits into a table, whose cells a bar would part: a sign that looks like one stands for it."""
    if text.count("``") % 2:
        raise SystemExit(f"a first sentence ends within a formula, maybe at dots: {text!r}")
    return text.replace("``", "`").replace("|", "\u2223")


if __name__ == "__main__":
    main()
