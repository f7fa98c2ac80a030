"""A GraphModule as pickle stores it: node by node. torch.fx stores the code and traces it again, which freezes the mode,
loses the classes of outputs, and fails on checks of the inputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate, map_arg

from fxprune.tracing.graphs.guarded_code import guard_modes
from fxprune.tracing.values.whole import place_of_whole, whole_at

__all__ = ["restored", "stored"]

_MADE_ANEW = ("_graph", "_code", "_lineno_map", "_prologue_start")
_META = ("scope", "calls", "source", "mode", "flag", "decides", "region", "acts", "words")


class _Place:
    """Stands for a node: its number in the graph."""

    def __init__(self, number: int) -> None:
        self.number = number


class _ByName:
    """Stands for a function or an operator that pickle does not find, or cannot store: it is looked up under its name.

    PyTorch makes some functions inside of others, as `torch.nn.functional.max_pool2d`; operators of `torch.ops` are none.
    """

    def __init__(self, found_by: Callable[..., Any], *names: str) -> None:
        self.reduced = (found_by, names)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return self.reduced


def _named(module: str, *names: str) -> Any:
    found: Any = torch.ops if module == "torch.ops" else importlib.import_module(module)
    for name in names:
        found = getattr(found, name)
    return found


def _operator(packet: Any) -> list[str]:
    """Library and name of an operator."""
    return [*packet._qualified_op_name.split("::")]


def _target(target: Any) -> Any:
    """A node's target as pickle can store it."""
    if isinstance(target, torch._ops.OpOverload):
        return _ByName(_named, "torch.ops", *_operator(target.overloadpacket), target._overloadname)
    if isinstance(target, torch._ops.OpOverloadPacket):
        return _ByName(_named, "torch.ops", *_operator(target))
    if (place := place_of_whole(target)) is not None:
        return _ByName(whole_at, *place)
    if "<locals>" not in getattr(target, "__qualname__", ""):
        return target
    try:
        known = _named(target.__module__, target.__name__) is target
    except (ImportError, AttributeError):
        known = False
    return _ByName(_named, target.__module__, target.__name__) if known else target


def stored(module: fx.GraphModule) -> tuple[dict[str, Any], list[Any]]:
    """The attributes of a module without its graph, and the nodes of that."""
    number: dict[fx.Node, Any] = {node: _Place(i) for i, node in enumerate(module.graph.nodes)}
    nodes = []
    for node in module.graph.nodes:
        args, kwargs = _plain(map_arg((node.args, node.kwargs), number.__getitem__))
        meta = {key: node.meta[key] for key in _META if key in node.meta}
        count = node.meta.get("val")  # of what is unpacked, how many
        nodes.append((node.op, _target(node.target), args, kwargs, node.name, meta, None if count is None else len(count)))
    return {k: v for k, v in module.__dict__.items() if k not in _MADE_ANEW}, nodes


def restored(kind: type[fx.GraphModule], name: str, state: dict[str, Any], nodes: list[Any]) -> fx.GraphModule:
    """The inverse of `stored`."""
    graph, made = fx.Graph(), []
    for op, target, args, kwargs, node_name, meta, count in nodes:
        args, kwargs = map_aggregate((args, kwargs), lambda a: made[a.number] if isinstance(a, _Place) else a)
        node = graph.create_node(op, target, args, dict(kwargs), node_name)
        node.meta.update(meta, **({} if count is None else {"val": (None,) * count}))
        made.append(node)
    guard_modes(graph)
    module = kind(nn.Module(), fx.Graph(), name)
    module.__dict__.update(state)
    module.graph = graph
    return module


def _plain(value: Any) -> Any:
    """Arguments in containers of Python instead of torch.fx's, which are not pickled."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(v) for v in value]
        return items if isinstance(value, list) else type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return slice(*map(_plain, (value.start, value.stop, value.step))) if isinstance(value, slice) else value
