"""Long lines broken the way a formatter would: one argument a line, trailing comma."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["wrap"]

WIDTH = 100
# A string literal, or one of the characters that lines are broken at.
_MARKS = re.compile(r"""'(?:\\.|[^'\\])*'?|"(?:\\.|[^"\\])*"?|[()\[\]{}, ]""", re.DOTALL)


def wrap(text: str, indent: int = 0, width: int = WIDTH) -> list[str]:
    """Return `text`, one logical line, as lines of at most `width` characters where its brackets allow it.

    >>> wrap("x = torch.cat([a, b], dim=1)", width=20)
    ['x = torch.cat(', '    [a, b], dim=1', ')']
    """
    margin = " " * indent
    if indent + len(text) <= width:
        return [margin + text]
    for start, end in _breakable(text):
        items = _split(text[start + 1 : end])
        if len(items) == 1 and _is_display(items[0]):
            start, end = start + 1, end - 1  # `f([` ... `])`
            items = _split(text[start + 1 : end])
        opening, closing = margin + text[: start + 1], margin + text[end:]
        joined = ", ".join(items)
        # Without a nested call the arguments may share a line; otherwise each gets its own.
        if indent + 4 + len(joined) <= width and not re.search(r"\w\(", joined):
            return [opening, f"{margin}    {joined}", closing]
        lines = [opening]
        for item in items:
            loop = _loop(item)
            body = wrap(item[:loop] if loop else item, indent + 4, width - 1)
            # A comma would not parse in a comprehension, and make a tuple of a single index.
            body[-1] += "" if loop or (len(items) == 1 and _is_subscript(text, start)) else ","
            lines += [*body, *([f"{margin}   {item[loop:]}"] if loop else [])]
        return [*lines, closing]
    return [margin + text]


def _scan(text: str) -> Iterator[tuple[int, str, int]]:
    """Yield (position, character, depth of brackets around it) of brackets, commas and spaces outside of string literals."""
    depth = 0
    for found in _MARKS.finditer(text):
        mark = found[0]
        if mark[0] in "'\"":
            continue
        depth -= mark in ")]}"
        yield found.start(), mark, depth
        depth += mark in "([{"


def _breakable(text: str) -> Iterator[tuple[int, int]]:
    """Yield outermost bracket pairs that may be broken over lines, longest first."""
    pairs: list[tuple[int, int]] = []
    start = 0
    for position, character, depth in _scan(text):
        if depth == 0 and character in "([{":
            start = position
        elif depth == 0 and character in ")]}" and position > start + 1:
            pairs.append((start, position))
    for start, end in sorted(pairs, key=lambda pair: pair[0] - pair[1]):
        several = len(_split(text[start + 1 : end])) > 1
        if text[start] != "(" or _after_value(text, start) or several:  # a comma would make `(a + b)` a tuple
            yield start, end


def _after_value(text: str, start: int) -> bool:
    return start > 0 and (text[start - 1].isalnum() or text[start - 1] in "_)]")


def _is_subscript(text: str, start: int) -> bool:
    return text[start] == "[" and _after_value(text, start)


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets and strings."""
    cuts = [position for position, character, depth in _scan(text) if character == "," and depth == 0]
    parts = [text[a:b].strip() for a, b in zip([0, *(c + 1 for c in cuts)], [*cuts, len(text)], strict=True)]
    return [part for part in parts if part]


def _is_display(text: str) -> bool:
    """Return True for a list, dict or comprehension as a whole: ``[...]``, ``{...}``."""
    ends = [position for position, character, depth in _scan(text) if depth == 0 and character in ")]}"]
    return text[0] in "[{" and ends == [len(text) - 1]


def _loop(text: str) -> int:
    """Return where the ``for`` of a comprehension starts, with its space; 0 if `text` is none."""
    starts = (at for at, character, depth in _scan(text) if character == " " and depth == 0)
    return next((at for at in starts if text.startswith(" for ", at)), 0)
