"""What crosses the border around the nodes of a call, and what its nodes are called inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import fx

from fxprune.codegen.schedule import RESHAPING
from fxprune.codegen.structured.aliases import Aliases
from fxprune.codegen.values import is_metadata
from fxprune.tracing.contexts.regions import OUTSIDE, region_of

__all__ = ["Border", "Local"]


class Border:
    """What crosses the border around some nodes of a graph."""

    def __init__(self, graph: fx.Graph, nodes: list[fx.Node]) -> None:
        self.graph, self.nodes, self.inside = graph, nodes, set(nodes)
        self.order = {node: number for number, node in enumerate(graph.nodes)}
        changing = any(n.op == "call_method" and n.target in RESHAPING for n in graph.nodes)
        self.light = (lambda n: False) if changing else is_metadata  # may be computed at another place

    def closed(self) -> bool:
        """Whether nothing else happens between the first and the last of the nodes."""
        places = [self.order[n] for n in self.nodes if not self.light(n)]
        if not places:
            return False
        first, last = min(places), max(places)
        return all(
            node in self.inside or node.op == "get_attr" or self.light(node)
            for node, place in self.order.items()
            if first < place < last
        )

    def read(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        """The nodes with the attributes and numbers that they read and that go with them, in order.

        Attributes come right before what reads them first: the calls of a module share the nodes of its attributes.
        """
        arguments = set(self.arguments)
        found: set[fx.Node] = set()

        def visit(node: fx.Node) -> None:
            if node in found or node in arguments:
                return
            if node in self.inside or node.op == "get_attr" or self.light(node):
                found.add(node)
                for source in node.all_input_nodes:
                    visit(source)

        for node in nodes:
            visit(node)

        def place(node: fx.Node) -> tuple[int, bool, int]:
            own = self.order[node]
            read = node.op == "get_attr"
            return min((self.order[user] for user in node.users if user in found), default=own) if read else own, not read, own

        return sorted(found, key=place)

    @property
    def arguments(self) -> list[fx.Node]:
        """Nodes outside whose values are handed in, in the order of their first use, but for numbers that follow from these."""
        if not hasattr(self, "_arguments"):
            tensors: dict[fx.Node, None] = {}
            numbers: dict[fx.Node, None] = {}
            for node in self.nodes:
                for source in node.all_input_nodes:
                    if source not in self.inside and source.op != "get_attr":
                        (numbers if self.light(source) else tensors)[source] = None
            handed = [n for n in numbers if not all(leaf in tensors or leaf in self.inside for leaf in self.leaves(n))]
            self._arguments = [*tensors, *handed]
        return self._arguments

    def inputs(self, path: str) -> list[fx.Node] | None:
        """The arguments, with tensors of the model that lie elsewhere; None where a mode is read elsewhere."""
        found = dict.fromkeys(self.arguments)
        for node in self.read(self.nodes):
            if node.op == "get_attr" and not str(node.target).startswith(f"{path}."):
                if str(node.target).rpartition(".")[2] == "training":
                    return None
                found[node] = None
        return list(found)

    def leaves(self, node: fx.Node) -> set[fx.Node]:
        """The tensors that a number follows from."""
        if not self.light(node):
            return {node}
        return {leaf for source in node.all_input_nodes for leaf in self.leaves(source)}

    def outputs(self) -> list[fx.Node]:
        """Nodes inside whose values are used outside; numbers that follow from those are computed there again."""
        used = [n for n in self.nodes if any(user not in self.inside for user in n.users)]
        values = [n for n in used if not self.light(n)]
        numbers = [n for n in used if self.light(n)]
        known = set(values)
        return [*values, *(n for n in numbers if not all(f in known or f not in self.inside for f in self.leaves(n)))]


class Local:
    """Names of the whole model -> names below one of its modules."""

    def __init__(self, path: str, aliases: Aliases) -> None:
        self.path, self.prefix, self.aliases = path, f"{path}.", aliases

    def reaches(self, node: fx.Node, shared: int, region: Any) -> bool:
        """Whether all names in a node lie below the module."""
        names = [flag for flag, _ in node.meta.get("needed", ())[shared:]]
        own = region_of(node)
        if own not in (region, OUTSIDE) and isinstance(own.grad, tuple):
            names.append(own.flag)
        if node.op in ("call_module", "get_attr"):
            names.append(self._name(node))
        return all(name.startswith(self.prefix) or (name == self.path and node.op == "call_module") for name in names)

    def _name(self, node: fx.Node) -> str:
        """What a node calls or reads; a called module goes by that of its names which lies below the module."""
        target = str(node.target)
        return (self.aliases.below(target, self.path) if node.op == "call_module" else "") or target

    def copied(self, graph: fx.Graph, node: fx.Node, known: Mapping[fx.Node, Any], shared: int, region: Any) -> fx.Node:
        """A node with its names below the module."""
        new = graph.node_copy(node, known.__getitem__)
        new.meta = dict(node.meta)
        if new.op in ("call_module", "get_attr"):
            new.target = self._name(node).removeprefix(self.path).removeprefix(".")
        needed = node.meta.get("needed", ())[shared:]
        new.meta["needed"] = tuple((flag.removeprefix(self.prefix), value) for flag, value in needed)
        new.meta["calls"] = ()
        new.meta.pop("flag", None)
        own = region_of(node)
        if own == region:
            new.meta.pop("region", None)
        elif own.flag.startswith(self.prefix):
            new.meta["region"] = replace(own, flag=own.flag.removeprefix(self.prefix))
        return new
