"""Which nodes of a graph are still needed when edges of it go: what writes into memory counts for those who read that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache, cached_property
from typing import Any

import torch
from torch import fx, nn

from fxprune import nested
from fxprune.labels.table import key_of
from fxprune.tracing.contexts.regions import region_of
from fxprune.tracing.graphs.modes import select_mode, writes
from fxprune.tracing.graphs.one_mode import only_mode
from fxprune.tracing.tracer import Traced
from fxprune.tracing.values.whole import is_whole

__all__ = ["Needs", "draws", "draws_always", "keeps_statistics"]

_STATISTICS = ("aten::batch_norm", "aten::instance_norm")


class Needs:
    """Answers for one traced graph.

    Two nodes may share memory unless it is known that one makes its own: then they are of one *memory*, a number.
    """

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.nodes = list(traced.graph.nodes)
        self._asserts = [n for n in self.nodes if n.target is torch._assert]

    def needed(self, without: Mapping[fx.Node, fx.Node] | None = None) -> set[fx.Node]:
        """The nodes that are needed where some nodes do not read an input any more: ``{node: input}``.

        An assertion about values that nobody else needs any more goes with them.
        """
        without = without or {}
        live = self._live(without, ())
        if not self._asserts:
            return live
        lost = self._whole - live
        stay = [n for n in self._asserts if not self._behind(n) & lost]
        return self._live(without, stay)

    @cached_property
    def _whole(self) -> set[fx.Node]:
        return self._live({}, ())

    def _live(self, without: Mapping[fx.Node, fx.Node], asserts: Collection[fx.Node]) -> set[fx.Node]:
        live: set[fx.Node] = set()
        memories: set[int] = set()
        flags: set[str] = set()
        for node in reversed(self.nodes):
            if not (node in live or node in asserts or self._counts(node, memories) or str(node.target) in flags):
                continue
            live.add(node)
            memories.add(self.memory[node])
            flags.update(_flags(node))
            for source in node.all_input_nodes:
                if without.get(node) is not source:
                    live.add(source)
                    memories.add(self.memory[source])
        return live

    def _counts(self, node: fx.Node, memories: set[int]) -> bool:
        """Whether a node is needed although nobody reads its result, where later nodes need these memories."""
        if node.op in ("output", "placeholder") or node.target is only_mode:
            return True
        if node.target is torch._assert:
            return False
        if not node.users and (node.op == "call_module" or is_whole(node)):
            return True
        into = {self.memory[n] for n in self.written(node)}
        return bool(into & (memories | self._outside)) or (not node.users and not into and "acts" in node.meta)

    def written(self, node: fx.Node) -> list[fx.Node]:
        """The inputs that a node may write into; statistics that a norm keeps are not meant."""
        sources = [n for n in node.all_input_nodes if nested.tensors(self.traced.values.get(n))]
        if node.op == "call_module":
            return sources[:1] if getattr(self._leaf(node), "inplace", False) is True else []
        if writes(node):
            return sources[:1]
        unknown = "acts" in node.meta and not draws(node) and not keeps_statistics(node)
        return sources if unknown else []

    def _leaf(self, node: fx.Node) -> nn.Module:
        return self.traced.names.modules[str(node.target)]

    def _behind(self, node: fx.Node) -> set[fx.Node]:
        """A node and all that it is computed from."""
        found, pending = set(), [node]
        while pending:
            here = pending.pop()
            if here not in found:
                found.add(here)
                pending.extend(here.all_input_nodes)
        return found

    # -- memory ------------------------------------------------------------------------------------------------------

    @cached_property
    def _outside(self) -> set[int]:
        """Memories that somebody outside of the graph may read: inputs, and tensors of the model."""
        return {self.memory[n] for n in self.nodes if n.op in ("placeholder", "get_attr")}

    @cached_property
    def memory(self) -> dict[fx.Node, int]:
        """The memory of each node: equal for those whose values may share it."""
        parent: dict[fx.Node, fx.Node] = {}

        def root(node: fx.Node) -> fx.Node:
            while parent.get(node, node) is not node:
                node = parent[node]
            return node

        for node in self.nodes:
            if not nested.tensors(self.traced.values.get(node)) or self._makes(node):
                continue
            for source in node.all_input_nodes:
                if nested.tensors(self.traced.values.get(source)):
                    parent[root(source)] = root(node)
        numbers = {node: number for number, node in enumerate(self.nodes)}
        return {node: numbers[root(node)] for node in self.nodes}

    def _makes(self, node: fx.Node) -> bool:
        """Whether it is known that the result of a node lies in memory of its own."""
        if node.op == "call_module":
            return self._layer_makes(self._leaf(node))
        if node.op not in ("call_method", "call_function") or self.written(node) or node.target is select_mode:
            return False
        return _new(key_of(node.op, node.target))

    def _layer_makes(self, leaf: nn.Module) -> bool:
        if isinstance(leaf, (nn.modules.dropout._DropoutNd, nn.Identity)) or getattr(leaf, "inplace", False):
            return False
        return any(p is not None for p in leaf._parameters.values()) or hasattr(leaf, "inplace")


def _flags(node: fx.Node) -> list[str]:
    """The ``training`` flags that say whether, or in which context, a node runs."""
    found = [str(node.meta["flag"])] if "flag" in node.meta else []
    region = region_of(node)
    return [*found, region.flag] if isinstance(region.grad, tuple) else found


@cache
def _overloads(name: str) -> tuple[Any, ...]:
    packet = getattr(torch.ops.aten, name, None)
    return () if packet is None else tuple(getattr(packet, overload) for overload in packet.overloads())


@cache
def _new(key: str) -> bool:
    """Whether an operator's schema says that it returns new memory; some (dropout in evaluation) may return their input."""
    space, _, name = key.partition("::")
    if space == "python":
        return name in ("add", "sub", "mul", "truediv", "neg", "pow", "matmul")
    found = [f for f in (_overloads(name) if space == "aten" else ()) if not f._schema.is_mutable]
    maybe = torch.Tag.maybe_aliasing_or_mutating
    return bool(found) and all(r.alias_info is None and maybe not in f.tags for f in found for r in f._schema.returns)


def draws(node: fx.Node) -> bool:
    """Whether a node draws random numbers, and does nothing else beside its result."""
    key = key_of(node.op, node.target)
    found = [f for f in _overloads(key.removeprefix("aten::")) if not f._schema.is_mutable]
    return bool(found) and any(torch.Tag.nondeterministic_seeded in f.tags for f in found) and not writes(node)


def draws_always(node: fx.Node) -> bool:
    """Whether a node draws random numbers in evaluation, too."""
    if "acts" not in node.meta or node.meta.get("mode") == "training" or not draws(node):
        return False
    if any(n.op == "get_attr" and str(n.target).rpartition(".")[2] == "training" for n in node.all_input_nodes):
        return False
    return not any(_never(node, f) for f in _overloads(key_of(node.op, node.target).removeprefix("aten::")))


def _never(node: fx.Node, overload: Any) -> bool:
    """Whether a node drops entries with a probability of 0 in evaluation."""
    for place, argument in enumerate(overload._schema.arguments):
        if argument.name in ("p", "dropout_p"):
            default = argument.default_value if argument.has_default_value() else None
            given = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, default)
            if isinstance(given, fx.Node) and given.target is select_mode:
                given = given.args[2]
            return type(given) in (int, float) and bool(given == 0)
    return False


def keeps_statistics(node: fx.Node) -> bool:
    """Whether a node is a norm that keeps running statistics, as a function."""
    return key_of(node.op, node.target) in _STATISTICS
