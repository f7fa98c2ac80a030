"""Hooks and parts that forward itself adds to modules, or takes away, as libraries do in the first call of a model.

A recording is the first call of a copy. What it registered is put back, and given to a second recording alone
(`fxprune.tracing.state.carried`): where that one registers nothing more and comes to the same graph, so does every call.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import nn

from fxprune.errors import TraceError
from fxprune.tracing.modules.hooks import HOOK_TABLES

__all__ = ["Registered", "refused"]

_TABLES = (*HOOK_TABLES, "_modules")


class Registered:
    """The hooks and parts of modules at one time.

    Attributes:
        held: ``(name of the module, kind of table, the table, a copy of it)``.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        own = {id(module): (name, module.__dict__) for name, module in modules.items()}.values()
        self.held: list[tuple[str, str, dict[Any, Any], dict[Any, Any]]] = [
            (name, key, table, dict(table)) for name, tables in own for key in _TABLES if (table := tables.get(key)) is not None
        ]

    def changed(self) -> tuple[str, str] | None:
        """Name of a module and kind of table that hold something else now; None where all is as it was."""
        return next(((name, key) for name, key, now, before in self.held if not _alike(now, before)), None)

    def put_back(self) -> None:
        """Have the modules hold what they held then."""
        for _, _, now, before in self.held:
            if not _alike(now, before):
                now.clear()
                now.update(before)


def refused(changed: tuple[str, str]) -> TraceError:
    """Why what a run registers is refused.

    Args:
        changed: as `Registered.changed` gives it.
    """
    name, table = changed
    if table == "_modules":
        return TraceError(
            f"forward puts other parts into the module {name!r}, and the next call computes something else: make them in "
            "__init__, or run the model once before it is recorded"
        )
    return TraceError(
        f"the hooks of the module {name!r} are not the same after a run as before, and the next call computes something else: "
        "register them once, or run the model once before it is recorded"
    )


def _alike(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    if not a and not b:
        return True
    return list(a) == list(b) and all(map(operator.is_, a.values(), b.values()))
