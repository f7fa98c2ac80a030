"""What can go wrong, named by meaning. Every error that fxprune raises on purpose is a `PruneError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InputError", "NotEquivalent", "NothingToPrune", "PlanMismatch", "PruneError", "TraceError", "Unfaithful", "nearest"]


class PruneError(Exception):
    """Base of all errors that fxprune raises on purpose; the message says what was wrong and what to do."""


class InputError(PruneError, ValueError):
    """An argument is out of range, of the wrong kind, or names something that does not exist."""


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


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to `name`, or an empty string.

    >>> nearest("l3", ["l1", "l2", "random"])
    " (did you mean 'l2'?)"
    """
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""
