"""What can go wrong, named by meaning. Every error that fxprune raises on purpose is a `PruneError`."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "BudgetUnreachable",
    "InputError",
    "NotEquivalent",
    "NothingToPrune",
    "PlanMismatch",
    "PruneError",
    "TraceError",
    "Unfaithful",
    "nearest",
    "said",
    "shown",
]


class PruneError(Exception):
    """Base of all errors that fxprune raises on purpose; the message says what was wrong and what to do."""


class InputError(PruneError, ValueError):
    """An argument is out of range, of the wrong kind, or names something that does not exist."""


class BudgetUnreachable(InputError):
    """No choice of channels meets the budgets."""


class TraceError(PruneError):
    """The model's forward cannot be recorded as one graph."""


class Unfaithful(TraceError):
    """What was recorded does not compute what the model's own code does: it must not be pruned as it is."""


class NothingToPrune(PruneError):
    """No channel of the model may be removed under the given options."""


class PlanMismatch(PruneError):
    """A plan was made for another model, or its text is damaged."""


class NotEquivalent(PruneError):
    """A check of the pruned model against the original failed: the result must not be used."""


def nearest(name: Any, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to `name`, or an empty string.

    >>> nearest("l3", ["l1", "l2", "random"])
    " (did you mean 'l2'?)"
    """
    if not isinstance(name, str) or len(name) > 1000:
        return ""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def said(error: BaseException) -> str:
    """What an error of somebody else's says, for a message of ours: on one line, and not all of it if that is long.

    >>> said(ValueError("no such\\n  thing"))
    'no such thing'
    """
    try:
        words = " ".join(str(error).split())
    except Exception:  # an error of the user's that cannot say what it is
        words = ""
    return words if len(words) <= _LONG else f"{words[:_LONG]} ..."


def shown(value: Any) -> str:
    """A value as a message shows it: on one line, and not all of one that is long.

    >>> shown("x" * 1000)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxxxx'"
    """
    try:
        return " ".join(_short.repr(value).split())
    except Exception:  # an object of the user's whose repr fails
        return f"a {type(value).__name__}"


_LONG = 400
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 62
