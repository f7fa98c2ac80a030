"""One graph of several submodules, taken apart into one graph each, and put together again.

joint                                        split: body                        split: head
def forward(self, inputs_0, inputs_1):       def forward(self, x, flag=False):  def forward(self, x):
    conv = self.body.conv(inputs_0)              torch._assert(flag == False)       fc = self.fc(x)
    fc = self.head.fc(inputs_1)                  conv = self.conv(x)                return fc
    return (conv, fc)                            return conv
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fxprune import nested
from fxprune.submodules.calls import Argument, ModuleCall, Recording, arguments, holds_tensors
from fxprune.submodules.dressing import Part, dressed, part_of
from fxprune.tracing.graphs.guarded_code import guard_modes
from fxprune.tracing.graphs.one_mode import only_mode

__all__ = ["attach", "join", "split"]


def split(joint: fx.GraphModule, model: nn.Module, recording: Recording) -> dict[str, Part]:
    """A GraphModule for each submodule of `model` in a recording, over the modules of `joint`, which computes all of them.

    Nodes keep their names. Settings stay but for those that forward writes, which a graph does not do.
    """
    nodes = list(joint.graph.nodes)
    inputs = iter([n for n in nodes if n.op == "placeholder"])
    outputs = next(n for n in nodes if n.op == "output").args[0]
    component = _components(nodes)
    parts = {}
    for (name, call), output in zip(recording.calls.items(), outputs, strict=True):
        original = model.get_submodule(name)
        root = dressed(joint.get_submodule(name), original, name, recording.written)
        graph = fx.Graph()
        given = _placeholders(graph, arguments(original, call), {n.name for n in nodes})
        known = {next(inputs): node for node, value in given if holds_tensors(value)}
        mine = {component[n] for n in _nodes_of(output, *known) if n in component}
        body = {n for n in nodes if component.get(n) in mine and n.op != "placeholder"}
        body |= {n for n in nodes if n.target is only_mode and _decides(n.args[0], name)}
        read = {n for n in _nodes_of(output, *(n.all_input_nodes for n in body)) if n.op == "get_attr"}
        flags = {n.meta["flag"] for n in body if "flag" in n.meta}
        read |= {n for n in nodes if n.op == "get_attr" and n.target in flags}
        local = _Local(joint, root, name)
        for node in nodes:
            if node in body or node in read:
                known[node] = new = _moved(graph, node, known, local)
                own = ((path, number) for path, number in node.meta.get("calls", ()) if path.startswith(f"{name}."))
                new.meta["calls"] = tuple((path.removeprefix(f"{name}."), number) for path, number in own)
        graph.output(map_arg(output, known.__getitem__)).meta.update(scope="", source="")
        first = next(n for n in graph.nodes if n.op != "placeholder")
        with graph.inserting_before(first):
            for node, value in given:
                _guard(graph, node, value, f"{name} was recorded with another value of {node.target}")
        guard_modes(graph)
        parts[name] = part = part_of(root, graph, original, name, recording.written)
        part.meta["classes"] = _below(name, joint.meta.get("classes", {}))
        part.meta["words"] = _below(name, joint.meta.get("words", {}))
        part.meta["example"] = nested.map(_on_meta, (tuple(value for _, value in given), {}))
        if modes := {mode: _below(name, kept) for mode, kept in joint.meta.get("modes", {}).items()}:
            part.meta["modes"] = modes
    return parts


def join(parts: Mapping[str, fx.GraphModule], model: nn.Module, calls: Mapping[str, ModuleCall]) -> fx.GraphModule:
    """The inverse of `split`: one graph of the parts that stand for submodules of `model`."""
    graph, known = fx.Graph(), {}
    for name, call in calls.items():
        placeholders = (n for n in parts[name].graph.nodes if n.op == "placeholder")
        for node, argument in zip(placeholders, arguments(model.get_submodule(name), call), strict=True):
            known[node] = argument.value
            if holds_tensors(argument.value):
                known[node] = graph.placeholder(f"inputs_{sum(n.op == 'placeholder' for n in graph.nodes)}")
    outputs, root = [], nn.Module()
    root.training = model.training
    for name, part in parts.items():
        attach(root, name, part, model)
        for node in part.graph.nodes:
            if node.op == "output":
                outputs.append(map_arg(node.args[0], known.__getitem__))
            elif node.op != "placeholder":
                known[node] = new = _moved(graph, node, known, f"{name}.{{}}".format)
                new.meta["calls"] = tuple((f"{name}.{path}", number) for path, number in node.meta.get("calls", ()))
    graph.output(tuple(outputs))
    guard_modes(graph)
    return fx.GraphModule(root, graph, type(model).__name__)


def attach(root: nn.Module, name: str, part: nn.Module, model: nn.Module) -> None:
    """Put `part` at the dotted `name` below `root`; what lies between has the mode that it has in `model`."""
    *path, last = name.split(".")
    for depth, step in enumerate(path, start=1):
        if step not in root._modules:
            root.add_module(step, nn.Module())
            root._modules[step].training = model.get_submodule(".".join(path[:depth])).training  # type: ignore[union-attr]
        root = root.get_submodule(step)
    root.add_module(last, part)


def _below(name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a submodule's parts (their modes, their classes), by their names in it."""
    own = {n: value for n, value in known.items() if n == name or n.startswith(f"{name}.")}
    return {n.removeprefix(name).removeprefix("."): value for n, value in own.items()}


def _on_meta(value: Any) -> Any:
    return value.detach().to("meta") if isinstance(value, Tensor) else value


# -- steps -----------------------------------------------------------------------------------------------------------------


def _components(nodes: Iterable[fx.Node]) -> dict[fx.Node, int]:
    """A number for each node but attributes and the output: nodes that exchange values have the same."""
    import networkx as nx

    graph = nx.Graph()
    for node in nodes:
        if node.op not in ("get_attr", "output"):
            graph.add_node(node)
            graph.add_edges_from((source, node) for source in node.all_input_nodes if source.op != "get_attr")
    return {node: number for number, part in enumerate(nx.connected_components(graph)) for node in part}


def _decides(flag: Any, name: str) -> bool:
    """Whether a ``training`` flag is of all submodules together, or of one that is `name` or inside it."""
    return str(flag.target) == "training" or str(flag.target).startswith(f"{name}.")


def _placeholders(graph: fx.Graph, given: Iterable[Argument], taken: Container[str]) -> list[tuple[fx.Node, Any]]:
    """A placeholder for each argument of forward, with its value; the names of nodes are `taken`."""
    found = []
    for argument in given:
        name = argument.name + "_input" if argument.name in taken else None
        node = graph.create_node("placeholder", argument.name, argument.default, name=name)
        node.meta.update(scope="", source="")
        found.append((node, argument.value))
    return found


def _nodes_of(*values: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    map_arg(values, found.append)
    return found


def _moved(graph: fx.Graph, node: fx.Node, known: Mapping[fx.Node, Any], rename: Callable[[str], str]) -> fx.Node:
    new = graph.node_copy(node, known.__getitem__)
    if new.op in ("get_attr", "call_module"):
        new.target = rename(str(new.target))
    if "flag" in new.meta:
        new.meta["flag"] = rename(str(new.meta["flag"]))
    return new


class _Local:
    """Names in the joint module -> names in one part of it, which takes along the constants that it reads."""

    def __init__(self, joint: nn.Module, root: nn.Module, name: str) -> None:
        self.joint, self.root, self.prefix = joint, root, f"{name}."
        parts = (*root.named_modules(), *root.named_parameters(), *root.named_buffers())
        self.names = {id(part): local for local, part in parts}

    def __call__(self, target: str) -> str:
        if target == "training":
            return target
        if target.startswith(self.prefix):
            return target.removeprefix(self.prefix)
        found = operator.attrgetter(target)(self.joint)
        if id(found) in self.names:  # tied with another part, under whose name it is known
            return self.names[id(found)]
        self.root.register_buffer(target, found, persistent=False)
        return target


def _guard(graph: fx.Graph, node: fx.Node, value: Any, message: str) -> None:
    """Assert that what is no tensor in an argument is what it was when the part was recorded."""
    if isinstance(value, Tensor):
        return
    if holds_tensors(value):
        _assert_equal(graph, graph.call_function(len, (node,)), len(value), message)
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            if not isinstance(item, Tensor):
                _guard(graph, graph.call_function(operator.getitem, (node, key)), item, message)
        return
    _assert_equal(graph, node, value, message)


def _assert_equal(graph: fx.Graph, node: fx.Node, value: Any, message: str) -> None:
    held = graph.call_function(operator.is_ if value is None else operator.eq, (node, value))
    for new in (node, held, graph.call_function(torch._assert, (held, message))):
        new.meta.update(scope="", source="")
