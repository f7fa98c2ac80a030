"""What goes into and comes out of the modules of a model whose code is recorded: each call of one, as nodes of the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxprune import nested
from fxprune.tracing.values.proxy import is_proxy

__all__ = ["PartCall", "PartCalls"]

_UNKNOWN = object()


@dataclass(frozen=True, eq=False)
class PartCall:
    """One call of a module that is no leaf of the graph.

    Attributes:
        name: of the module; empty for the model itself.
        args, kwargs, output: nested values with nodes where the model has tensors and sizes; None for a node that went.
    """

    name: str
    args: Any
    kwargs: Any
    output: Any

    def moved(self, made: Mapping[fx.Node, fx.Node]) -> PartCall:
        """The call in another graph."""
        parts = nested.map(lambda v: made.get(v) if isinstance(v, fx.Node) else v, (self.args, self.kwargs, self.output))
        return PartCall(self.name, *parts)

    def within(self, nodes: Collection[fx.Node]) -> PartCall:
        """The call without nodes that are no longer in the graph."""
        return self.moved({node: node for node in nodes})


class PartCalls:
    """The calls of one run, in the order in which they end."""

    def __init__(self) -> None:
        self.calls: list[PartCall] = []

    def given(self, args: Any, kwargs: Any) -> Any:
        """What a call gets, with nodes in the place of proxies: before its code runs, which may write into a list of these."""
        return _nodes_of((args, kwargs))

    def note(self, name: str, given: Any, output: Any) -> None:
        """Keep a call."""
        output = _nodes_of(output)
        if given is not _UNKNOWN and output is not _UNKNOWN:
            self.calls.append(PartCall(name, given[0], given[1], output))


def _nodes_of(value: Any) -> Any:
    try:
        return nested.map(lambda v: v.node if is_proxy(v) else v, value)
    except Exception:  # objects of the model's own classes may refuse to be walked over: such a call is not known
        return _UNKNOWN
