"""Why channels of several layers are one: what the report says of a group with a single channel."""

from __future__ import annotations

from collections.abc import Sequence

from fxprune.analysis.groups import Member
from fxprune.labels.solver import Solution
from fxprune.labels.store import LabelStore

__all__ = ["why_single"]

_NAMED = 3  # layers and operations that the sentence names


def why_single(label: int, members: Sequence[Member], store: LabelStore, solution: Solution) -> str:
    """The reason of a group of one channel: which channels of which layers it stands for, and what binds them.

    Args:
        label: the class of the channel.
    """
    plain = "a single channel cannot be removed"
    held = [(m.indices.shape[1], m.name) for m in members if m.role == "producer"]
    # A product with the channel as a factor repeats it: norms of groups, reshapes.
    causes = {p.cause: None for p in store.products if any((solution.root[side] == label).any() for side in (p.left, p.right))}
    by = _listed([str(store.causes[cause]) for cause in causes])
    if not held or (not by and all(count == 1 for count, _ in held)):
        return plain
    bound = f"channels of {_listed([f'{name} ({count})' for count, name in held])}"
    return f"{plain}; here {by} binds {bound} into one" if by else f"{plain}; here it stands for {bound}"


def _listed(texts: list[str]) -> str:
    """``a, b and 4 more``."""
    more = len(texts) - _NAMED
    shown = texts[:_NAMED] + ([f"{more} more"] if more > 0 else [])
    return " and ".join(part for part in (", ".join(shown[:-1]), shown[-1] if shown else "") if part)
