"""The nodes of each module call as a graph of their own, and in the place where they were one node that calls the module.

before                              after, whole                     after, block
y = self.block.conv(x)              y = self.block(x)               y = self.conv(x)
z = self.block.norm(y) + x          z = self.head(y)                return self.norm(y) + x
z = self.head(z)

A call becomes one node where its nodes stand together, and where all that they use of the model lies below the module. Where
that is not so, its nodes stay with those of the call around it.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg

from fxprune.codegen.schedule import POOL, metadata_names
from fxprune.codegen.structured.border import Border, Local
from fxprune.codegen.structured.simplify import Whole
from fxprune.codegen.values import is_metadata
from fxprune.tracing.contexts.regions import OUTSIDE, region_of

__all__ = ["fold"]

Call = tuple[tuple[str, int], ...]


def fold(whole: Whole) -> dict[str, fx.Graph]:
    """Module -> its graph, whose names are those below the module; what remains of ``whole.graph`` is that of the model."""
    _complete(whole.graph)
    folded: dict[str, fx.Graph] = {}
    while True:
        depth: dict[str, int] = {}
        for node in whole.graph.nodes:
            for level, (path, _) in enumerate(node.meta["calls"], start=1):
                depth[path] = max(level, depth.get(path, 0))
        if not depth:
            break
        path = max(depth, key=lambda p: depth[p])
        graph = _fold_one(whole, path)
        if graph is not None:
            folded[path] = graph
        for node in whole.graph.nodes:
            node.meta["calls"] = tuple(call for call in node.meta["calls"] if call[0] != path)
    for node in whole.graph.nodes:
        if node.op == "call_module":
            node.target = whole.aliases.below(str(node.target), "")
    return folded


def _complete(graph: fx.Graph) -> None:
    """Give nodes that passes added the calls that they belong to: those which what they use shares."""
    for node in graph.nodes:
        if node.op in ("placeholder", "output", "get_attr"):
            node.meta["calls"] = ()
    for node in graph.nodes:
        if "calls" not in node.meta:
            near = [n.meta["calls"] for n in node.all_input_nodes if n.op not in ("get_attr", "placeholder")]
            near = near or [n.meta["calls"] for n in node.users if "calls" in n.meta]
            shared: Call = near[0] if near else ()
            for other in near[1:]:
                shared = tuple(a for a, b in zip(shared, other, strict=False) if a == b)
            node.meta["calls"] = shared


def _fold_one(whole: Whole, path: str) -> fx.Graph | None:
    """The graph of all calls of a module, if they are alike; they become one node each."""
    calls: dict[Call, list[fx.Node]] = defaultdict(list)
    for node in whole.graph.nodes:
        chain = node.meta["calls"]
        places = [i for i, call in enumerate(chain) if call[0] == path]
        if len(places) > 1 or (places and places[0] != len(chain) - 1):
            return None
        if places:
            calls[chain].append(node)
    if not _holds(whole, path):
        return None
    if all(len(nodes) == 1 and nodes[0].op == "call_module" and nodes[0].target == path for nodes in calls.values()):
        return None  # a layer of a class that adds nothing to torch's
    inside = {node for nodes in calls.values() for node in nodes}
    if _called_from_outside(whole, path, inside):
        return None
    outlines = []
    for chain, nodes in calls.items():
        outline = _outlined(whole, path, chain, nodes)
        if outline is None:
            return None
        outlines.append(outline)
    first = _shape(outlines[0].graph)
    if any(_shape(other.graph) != first or other.needed != outlines[0].needed for other in outlines[1:]):
        return None
    for number, outline in enumerate(outlines, 1):
        values = _replace(whole.graph, path, outline)
        for later in outlines[number:]:  # which may take what this one gives
            later.inputs = [values.get(node, node) for node in later.inputs]
    return outlines[0].graph


def _holds(whole: Whole, path: str) -> bool:
    """Whether a module holds anything; what does not is a function, whose statements stand where it is called.

    A link of a numbered chain stays one.
    """
    owner, _, name = path.rpartition(".")
    container: Any = _found(whole, owner)
    module = None if container is None else container._modules.get(name)
    if container is not None and module is None and name.isdigit():
        parts = {**container._modules, name: nn.Module()}
        if all(map(str.isdigit, parts)):
            container.__dict__["_modules"] = {key: parts[key] for key in sorted(parts, key=int)}
            return True
    return module is not None and bool(module._modules or module._parameters or module._buffers)


def _found(whole: Whole, path: str) -> nn.Module | None:
    """The module of a name, if there is one."""
    try:
        return whole.get_submodule(path)
    except AttributeError:
        return None


def _called_from_outside(whole: Whole, path: str, inside: set[fx.Node]) -> bool:
    """Whether other code calls the module's own layers, but for those that have other names."""
    for node in whole.graph.nodes:
        target = str(node.target)
        if target in whole.aliases.others:
            continue
        if node.op == "call_module" and node not in inside and (target == path or target.startswith(f"{path}.")):
            return True
    return False


@dataclass
class _Outline:
    """A call that can be one node.

    Attributes:
        nodes: what it does.
        graph: the same, over the names below the module.
        inputs, outputs: nodes of the whole graph that cross its border.
        copies: numbers that are computed inside and outside.
        needed: conditions that all nodes share.
        region: contexts that all nodes share.
    """

    chain: Call
    nodes: list[fx.Node]
    graph: fx.Graph
    inputs: list[fx.Node]
    outputs: list[fx.Node]
    needed: tuple[Any, ...]
    region: Any


def _outlined(whole: Whole, path: str, chain: Call, nodes: list[fx.Node]) -> _Outline | None:
    border = Border(whole.graph, nodes)
    if not border.closed():
        return None
    outputs = border.outputs()
    needed = _shared([n.meta["needed"] for n in nodes if not is_metadata(n)])
    regions = {region_of(n) for n in nodes if not is_metadata(n)}
    region = regions.pop() if len(regions) == 1 else OUTSIDE
    local = Local(path, whole.aliases)
    inputs = border.inputs(path)
    if not outputs or inputs is None:
        return None
    if not all(local.reaches(node, len(needed), region) for node in border.read(nodes) if node not in inputs):
        return None
    graph = fx.Graph()
    known: dict[fx.Node, Any] = {}
    taken: set[str] = set()
    pool = iter([*POOL, *(f"x{n}" for n in range(2, 999))])
    for node in inputs:
        words = _numbered(metadata_names(node)[0]) if is_metadata(node) else pool
        name = next(word for word in words if word not in taken)
        taken.add(name)
        known[node] = graph.placeholder(name)
        known[node].meta.update(needed=(), calls=(), tensor=not _is_number(node))
    for node in border.read(nodes):
        if node not in known:
            known[node] = local.copied(graph, node, known, len(needed), region)
    results = [known[node] for node in outputs]
    graph.output(results[0] if len(results) == 1 else tuple(results)).meta.update(needed=(), calls=())
    return _Outline(chain, nodes, graph, inputs, outputs, needed, region)


def _is_number(node: fx.Node) -> bool:
    """Whether a node makes a number that follows from shapes, inside a call that became one node, too."""
    return is_metadata(node) or bool(node.meta.get("number"))


def _numbered(name: str) -> Iterable[str]:
    yield name
    for number in range(2, 999):
        yield f"{name}_{number}"


def _shared(needed: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    shared = needed[0] if needed else ()
    for other in needed[1:]:
        while other[: len(shared)] != shared:
            shared = shared[:-1]
    return shared


def _shape(graph: fx.Graph) -> list[Any]:
    """What tells a graph from one that does other things."""
    number = {node: f"%{i}" for i, node in enumerate(graph.nodes)}
    return [
        (n.op, n.target, map_arg((n.args, dict(n.kwargs)), lambda a: _Mark(number[a])), n.meta["needed"], region_of(n))
        for n in graph.nodes
    ]


class _Mark(str):
    """Stands for a node."""


def _replace(graph: fx.Graph, path: str, outline: _Outline) -> dict[fx.Node, fx.Node]:
    """Put one node in the place of those of a call; gives what is used in the place of which of them."""
    inside = set(outline.nodes)
    last = outline.nodes[-1]
    with graph.inserting_after(last):
        call = graph.call_module(path, tuple(outline.inputs))
    meta = {"needed": outline.needed, "calls": outline.chain[:-1], "scope": "", "source": ""}
    call.meta.update(meta)
    if outline.region != OUTSIDE:
        call.meta["region"] = outline.region
    values = {outline.outputs[0]: call}
    call.meta["number"] = _is_number(outline.outputs[0])
    after = call
    if len(outline.outputs) > 1:
        call.meta["val"] = (None,) * len(outline.outputs)
        values = {}
        for number, node in enumerate(outline.outputs):
            with graph.inserting_after(after):
                after = values[node] = graph.call_function(operator.getitem, (call, number))
            after.meta.update(meta, **({"region": outline.region} if outline.region != OUTSIDE else {}))
            after.meta["number"] = _is_number(node)
    _rebuild_outside(graph, outline, inside, values, after)
    for node in reversed(outline.nodes):
        graph.erase_node(node)
    return values


def _rebuild_outside(
    graph: fx.Graph, outline: _Outline, inside: set[fx.Node], values: dict[fx.Node, fx.Node], after: fx.Node
) -> None:
    """Have the nodes outside use the call's results; numbers that were computed inside are computed again."""

    def outer(node: fx.Node) -> fx.Node:
        nonlocal after
        if node in values:
            return values[node]
        if node not in inside:
            return node
        args, kwargs = map_arg((node.args, node.kwargs), outer)
        with graph.inserting_after(after):
            after = graph.create_node(node.op, node.target, args, kwargs)
        after.meta = {**node.meta, "calls": outline.chain[:-1], "needed": outline.needed}
        values[node] = after
        return after

    places = {node: i for i, node in enumerate(graph.nodes)}
    start = places[outline.nodes[-1]]
    for node in list(graph.nodes):
        if node in inside or node in values.values() or not any(source in inside for source in node.all_input_nodes):
            continue
        node.args, node.kwargs = map_arg((node.args, node.kwargs), outer)
        if places.get(node, start) < start:
            after.append(node)
            after = node
