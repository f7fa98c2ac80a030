"""One graph of several submodules, taken apart into one graph each, and put together again.

joint                                        split: body                        split: head
def forward(self, inputs_0, inputs_1):       def forward(self, x, flag=False):  def forward(self, x):
    conv = self.body.conv(inputs_0)              torch._assert(flag == False)       fc = self.fc(x)
    fc = self.head.fc(inputs_1)                  conv = self.conv(x)                return fc
    return (conv, fc)                            return conv
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fxprune import nested
from fxprune.errors import PruneError
from fxprune.submodules.calls import Call, arguments, holds_tensors
from fxprune.tracing.modes import guard_modes
from fxprune.tracing.module import Recorded

__all__ = ["Part", "attach", "join", "split"]

_INTERNAL = frozenset(nn.Module().__dict__)


class Part(Recorded):
    """A recorded submodule in the place of the original, whose settings and other methods it keeps.

    Only `forward` is the graph's: any other method (``head.compute_loss``) is the code of the original's class.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            original = self.__dict__.get("meta", {}).get("original")
            if original is None or name.startswith("__"):
                raise
            if name in original.__dict__:
                return original.__dict__[name]
            found = inspect.getattr_static(type(original), name, None)
            if found is None:
                raise
            return found.__get__(self, type(original)) if hasattr(found, "__get__") else found


def split(
    joint: fx.GraphModule, model: nn.Module, calls: Mapping[str, Call], written: Set[str] = frozenset()
) -> dict[str, Part]:
    """A GraphModule for each submodule of `model` in `calls`, over the modules of `joint`, which computes all of them.

    Nodes keep their names. Settings stay but for those `written` (full names) in forward, which a graph does not do.
    """
    nodes = list(joint.graph.nodes)
    inputs = iter([n for n in nodes if n.op == "placeholder"])
    outputs = next(n for n in nodes if n.op == "output").args[0]
    component = _components(nodes)
    parts = {}
    for (name, call), output in zip(calls.items(), outputs, strict=True):
        original = model.get_submodule(name)
        graph, known = fx.Graph(), {}
        given = []
        for argument in arguments(original, call):
            taken = any(n.name == argument.name for n in nodes)
            node = graph.create_node(
                "placeholder", argument.name, argument.default, name=argument.name + "_input" if taken else None
            )
            node.meta.update(scope="", source="")
            given.append((node, argument.value))
            if holds_tensors(argument.value):
                known[next(inputs)] = node
        mine = {component[n] for n in _nodes_of(output, *known) if n in component}
        body = {n for n in nodes if component.get(n) in mine and n.op != "placeholder"}
        read = {n for n in _nodes_of(output, *(n.all_input_nodes for n in body)) if n.op == "get_attr"}
        root = _dressed(joint.get_submodule(name), original, name, written)
        local = _Local(joint, root, name)
        for node in nodes:
            if node in body or node in read:
                known[node] = _moved(graph, node, known, local)
        graph.output(map_arg(output, known.__getitem__)).meta.update(scope="", source="")
        first = next(n for n in graph.nodes if n.op != "placeholder")
        with graph.inserting_before(first):
            for node, value in given:
                _guard(graph, node, value, f"{name} was recorded with another value of {node.target}")
        guard_modes(graph)
        parts[name] = _part(root, graph, original, name, written)
    return parts


def join(parts: Mapping[str, fx.GraphModule], model: nn.Module, calls: Mapping[str, Call]) -> fx.GraphModule:
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
                known[node] = _moved(graph, node, known, f"{name}.{{}}".format)
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


def _nodes_of(*values: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    map_arg(values, found.append)
    return found


def _moved(graph: fx.Graph, node: fx.Node, known: Mapping[fx.Node, Any], rename: Callable[[str], str]) -> fx.Node:
    new = graph.node_copy(node, known.__getitem__)
    if new.op in ("get_attr", "call_module"):
        new.target = rename(str(new.target))
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


def _part(root: nn.Module, graph: fx.Graph, original: nn.Module, name: str, written: Set[str]) -> Part:
    part = Part(nn.Module(), fx.Graph(), type(original).__name__)
    part._modules, part._parameters, part._buffers = root._modules, root._parameters, root._buffers
    part._non_persistent_buffers_set = root._non_persistent_buffers_set
    part.training = root.training
    part.graph = graph
    if isinstance(original, fx.GraphModule):
        original = original.meta.get("original", original)
    if not isinstance(original, fx.GraphModule):
        part.meta["original"] = _bare(original, name, written)
    return part


def _dressed(slim: nn.Module, original: nn.Module, name: str, written: Set[str]) -> nn.Module:
    """`slim` with the classes and settings of `original` for the modules that only hold others."""
    made: dict[int, nn.Module] = {}

    def visit(here: nn.Module, there: nn.Module, path: str) -> nn.Module:
        if type(here) is not nn.Module:  # a leaf, which the graph calls
            return here
        if id(here) not in made:
            made[id(here)] = new = nn.Module() if isinstance(there, fx.GraphModule) else _bare(there, path, written)
            new.__dict__["forward"] = _refuse
            new._modules = {k: m and visit(m, there.get_submodule(k), f"{path}.{k}") for k, m in here._modules.items()}
            new._parameters, new._buffers = dict(here._parameters), dict(here._buffers)
            new._non_persistent_buffers_set = set(here._non_persistent_buffers_set)
            new.training = here.training
        return made[id(here)]

    return visit(slim, original, name)


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise PruneError(
        "a module inside a recorded submodule is called by itself, but its code is of the model before pruning: call the "
        "submodule, or name the modules inside it in submodules=[...]"
    )


def _bare(module: nn.Module, name: str, written: Set[str]) -> nn.Module:
    """A module of the same class with copies of its settings, without tensors, parts and hooks."""
    kind = type(module)
    new = kind.__new__(kind)
    new.__dict__.update(nn.Module().__dict__)
    for key, value in module.__dict__.items():
        if key not in _INTERNAL and f"{name}.{key}" not in written and not _holds_state(value):
            new.__dict__[key] = copy.deepcopy(value)
    return new


def _holds_state(value: Any) -> bool:
    return any(
        isinstance(leaf, (Tensor, nn.Module)) or isinstance(getattr(leaf, "__self__", None), nn.Module)
        for leaf in nested.leaves(list(value) if isinstance(value, set) else value)
    )
