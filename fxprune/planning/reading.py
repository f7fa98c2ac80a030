"""JSON documents of unknown origin, and the values in them: each is checked before anything is made of its size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from fxprune.errors import PruneError, shown

__all__ = ["count", "counts", "document_of_text", "entries", "number", "once", "text", "texts", "truth"]

Value = TypeVar("Value")


def document_of_text(given: Any, form: str, version: int, error: type[PruneError], first: int | None = None) -> dict[str, Any]:
    """The fields of a JSON document of one form and version, without these two.

    Args:
        form: as ``fxprune-plan``.
        first: of several versions that are read, the first; `version` is the last.
        error: what is raised, and says so in one sentence.
    """
    what = f"this is not a {form.removeprefix('fxprune-')}"
    if not isinstance(given, (str, bytes, bytearray)):
        raise error(f"{what}: give the text of a JSON document, not {type(given).__name__}")
    try:
        given = given if isinstance(given, str) else given.decode("utf-8-sig")
        document = json.loads(given, object_pairs_hook=_pairs)
        if not given.isascii() or re.search(r"\\u[dD][89a-fA-F]", given):
            json.dumps(document, ensure_ascii=False).encode()  # half characters could not be printed or stored
    except (ValueError, RecursionError) as why:  # numbers of thousands of digits, too, are ValueErrors
        raise error(f"{what}: the text is not JSON ({why!s:.200})") from why
    if not isinstance(document, dict) or document.pop("format", None) != form:
        raise error(f"{what}: the JSON document has no format {form!r}")
    found = document.pop("version", None)
    first = version if first is None else first
    if type(found) is not int or not first <= found <= version:
        name, known = form.removeprefix("fxprune-"), f"{version}" if first == version else f"{first} to {version}"
        raise error(f"the {name} has version {shown(found)}; this fxprune reads version {known}")
    return document


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(n for n in names if names.count(n) > 1))} is there twice")
    return found


def count(value: Any) -> int:
    """
    Raises:
        ValueError: it is no whole number that could count something.
    """
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{shown(value)} is not a count")
    return value


def counts(values: Any) -> list[int]:
    """
    Raises:
        ValueError: these are no counts.
    """
    found: list[Any] = entries(values)
    if not {int}.issuperset(map(type, found)) or min(found, default=0) < 0:
        return [count(value) for value in found]  # which names the first that is none
    return found


def number(value: Any) -> float:
    """
    Raises:
        ValueError: it is no number.
    """
    if type(value) not in (int, float):
        raise ValueError(f"{shown(value)} is not a number")
    return float(value)


def text(value: Any) -> str:
    """
    Raises:
        ValueError: it is no text.
    """
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not text")
    return value


def truth(value: Any) -> bool:
    """
    Raises:
        ValueError: it is neither true nor false.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def entries(value: Any, read: Callable[[Any], Value] = lambda entry: entry, size: int | None = None) -> list[Value]:
    """The entries of a list, each read.

    Raises:
        ValueError: it is no list, or has not so many.
    """
    if not isinstance(value, (list, tuple)) or (size is not None and len(value) != size):
        raise ValueError(f"{shown(value)} is not a list" + ("" if size is None else f" of {size}"))
    return [read(entry) for entry in value]


def texts(value: Any) -> dict[str, str]:
    """
    Raises:
        ValueError: it is no mapping of text to text.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{shown(value)} is not a mapping")
    return {text(key): text(entry) for key, entry in value.items()}


def once(names: Iterable[str]) -> None:
    """
    Raises:
        ValueError: a name is there twice.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{shown(name)} is there twice")
        seen.add(name)
