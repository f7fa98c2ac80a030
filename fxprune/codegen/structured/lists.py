"""Parts that join any number of tensors: they take a list of them, so that one class serves for all numbers.

y = self.layer1(x)                                  y = self.layer1([x])
z = self.layer2(x, y)                       ->      z = self.layer2([x, y])
def forward(self, x, y): torch.cat([x, y], 1)       def forward(self, features): torch.cat(features, 1)
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import fx
from torch.fx.node import map_aggregate

from fxprune.codegen.structured.simplify import Whole

__all__ = ["take_lists"]

FEATURES = "features"


def take_lists(whole: Whole, folded: Mapping[str, fx.Graph]) -> None:
    """Have modules of a class take a list where they take different numbers of tensors, all of which they put in a list.

    Args:
        folded: module -> its graph.
    """
    kinds: Mapping[str, str] = whole.meta["classes"]
    alike: dict[str, list[str]] = defaultdict(list)
    for path in folded:
        if path and path in kinds:
            alike[kinds[path]].append(path)
    calls = _calls(folded, whole.aliases.first)
    for paths in alike.values():
        numbers = {len(_inputs(folded[path])) for path in paths}
        if len(numbers) > 1 and all(_joins(folded[path]) for path in paths):
            for path in paths:
                _take_list(folded[path])
                for call in calls[path]:
                    call.args = ([*call.args],)


def _calls(folded: Mapping[str, fx.Graph], first: Mapping[str, str]) -> dict[str, list[fx.Node]]:
    """Module -> the nodes that call it."""
    found: dict[str, list[fx.Node]] = defaultdict(list)
    for path, graph in folded.items():
        for node in graph.nodes:
            if node.op == "call_module" and node.target:
                name = f"{path}.{node.target}".strip(".")
                found[first.get(name, name)].append(node)
    return found


def _inputs(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _joins(graph: fx.Graph) -> bool:
    """Whether all inputs are tensors that stand in one list, in their order."""
    inputs = _inputs(graph)
    tensors = all(node.meta.get("tensor", True) and not node.args for node in inputs)
    return tensors and any(_is_list(part, inputs) for node in graph.nodes for part in node.args)


def _is_list(value: Any, inputs: list[fx.Node]) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == len(inputs) and all(map(operator.is_, value, inputs))


def _take_list(graph: fx.Graph) -> None:
    inputs = _inputs(graph)
    with graph.inserting_before(inputs[0]):
        taken = graph.placeholder(FEATURES)
    taken.meta = {**inputs[0].meta, "list": True}
    single: dict[fx.Node, fx.Node] = {}

    def entry(node: fx.Node) -> fx.Node:
        if node in inputs and node not in single:
            with graph.inserting_before(first):
                single[node] = graph.call_function(operator.getitem, (taken, inputs.index(node)))
            single[node].meta = {"needed": (), "calls": ()}
        return single.get(node, node)

    body = [node for node in graph.nodes if node.op != "placeholder"]
    first = body[0]
    for node in body:
        args = tuple(taken if _is_list(part, inputs) else part for part in node.args)
        replaced = map_aggregate((args, node.kwargs), lambda part: entry(part) if isinstance(part, fx.Node) else part)
        node.args, node.kwargs = replaced
    for node in inputs:
        graph.erase_node(node)
