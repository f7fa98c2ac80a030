"""What a user says for some groups: numbers by patterns of names, or by kinds of layers."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from fxprune.analysis.groups import Group
from fxprune.errors import InputError, nearest

__all__ = ["check_patterns", "number_for", "pattern_for"]

Number = TypeVar("Number", int, float)


def pattern_for(group: Group, patterns: Iterable[str]) -> str | None:
    """The first pattern that matches the name of a tensor or module that produces the group's channels, or that is the class of
    such a layer (``"Conv2d"``)."""
    members = [m for m in group.members if m.role == "producer"] or list(group.members)
    names = [name for m in members for name in (m.name, m.name.rpartition(".")[0])]
    layers = group.layers
    return next((p for p in patterns if p in layers or any(fnmatch.fnmatchcase(n, p) for n in names)), None)


def number_for(group: Group, given: Number | Mapping[str, Number], default: Number) -> Number:
    """The number that is given for a group: the one for all, or that of the first pattern that matches."""
    if not isinstance(given, Mapping):
        return given
    pattern = pattern_for(group, given)
    return default if pattern is None else given[pattern]


def check_patterns(groups: Sequence[Group], name: str, given: object) -> None:
    """
    Raises:
        InputError: a pattern matches no group that may be pruned.
    """
    for pattern in given if isinstance(given, Mapping) else ():
        if not any(pattern_for(group, [pattern]) for group in groups):
            known = [m.name.rpartition(".")[0] for g in groups for m in g.members]
            raise InputError(f"{name} pattern {pattern!r} matches no group that may be pruned{nearest(pattern, known)}")
