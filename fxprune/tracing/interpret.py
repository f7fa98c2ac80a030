"""Run a graph node by node on the meta device, with labels; and what else depends on nodes one by one."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fxprune import nested
from fxprune.labels.store import Axis, Cause
from fxprune.tracing.label_mode import LabelMode
from fxprune.tracing.lowering import pure_leaf
from fxprune.tracing.modes import select_mode, writes

__all__ = ["FACTORIES", "call_on_meta", "keeps", "label_outputs", "labels_of", "literals_in", "run_graph"]

FACTORIES = tuple(
    """
    arange zeros ones full empty rand randn randint linspace logspace eye tensor as_tensor randperm tril_indices
    triu_indices
    """.split()
)


def run_graph(
    graph: fx.Graph,
    skeleton: nn.Module,
    mode: LabelMode,
    inputs: Sequence[Any],
    constants: Mapping[str, Tensor],
    lowered: Mapping[str, type[nn.Module]],
) -> dict[fx.Node, Any]:
    """Values of all nodes on the meta device; `mode` labels them."""
    values: dict[fx.Node, Any] = {}
    given = iter(inputs)
    for node in graph.nodes:
        mode.node, mode.source = node.name, node.meta.get("source", "")
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        mode.literal_sizes = None if node.op == "call_module" else frozenset(literals_in((node.args, node.kwargs)))
        with torch.inference_mode(), mode:
            if node.op == "placeholder":
                values[node] = next(given)
                for tensor in nested.tensors(values[node]):
                    mode.label(tensor, [Axis(int(s), None, True) for s in tensor.shape])
            elif node.op == "get_attr":
                values[node] = _attribute(skeleton, mode, str(node.target), constants)
            elif node.op == "call_module":
                name = str(node.target)
                module = skeleton.get_submodule(name)
                values[node] = (pure_leaf(module, lowered[name]) if name in lowered else module)(*args, **kwargs)
            elif node.op == "call_method":
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "call_function":
                values[node] = call_on_meta(node.target, args, kwargs)
                if node.target is select_mode:
                    _join_modes(mode, args[1], args[2])
            else:
                values[node] = args[0]
                label_outputs(mode, args[0])
    return values


def call_on_meta(target: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Call a function; a factory that names no device (``torch.zeros(3)``) makes its tensor on the meta device."""
    if getattr(target, "__name__", "") in FACTORIES and kwargs.get("device") is None:
        kwargs = {**kwargs, "device": torch.device("meta")}
    return target(*args, **kwargs)


def _attribute(skeleton: nn.Module, mode: LabelMode, name: str, constants: Mapping[str, Tensor]) -> Any:
    if name in constants:
        value = torch.empty_like(constants[name], device="meta")
        mode.set_known(value, constants[name].detach().cpu())
        return value
    return operator.attrgetter(name)(skeleton)


def _join_modes(mode: LabelMode, a: Any, b: Any) -> None:
    """Both arms feed the same users: equal shapes are the same channels, anything else stays whole."""
    cause = mode.cause("differs between training and evaluation")
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape:
        for x, y in zip(mode.axes(a), mode.axes(b), strict=True):
            mode.store.unify(x, y, cause)
        return
    for tensor in nested.tensors((a, b)):
        for axis in mode.axes(tensor):
            mode.store.fix(axis, cause)


def label_outputs(mode: LabelMode, value: Any) -> None:
    """The model's outputs keep all their entries."""
    cause = mode.store.cause(Cause("part of the model's output"))
    for tensor in nested.tensors(value):
        for axis in mode.axes(tensor):
            mode.store.fix(axis, cause)


def labels_of(mode: LabelMode, value: Any) -> Any:
    """A node's value with each tensor replaced by the tuple of its axes, and anything else by None."""
    return nested.map(lambda v: mode.axes(v) if isinstance(v, Tensor) else None, value)


def literals_in(value: Any) -> list[int]:
    """The numbers that a node's arguments name."""
    return [leaf for leaf in nested.leaves(value) if type(leaf) is int]


def keeps(node: fx.Node) -> bool:
    """Whether a node without users must stay: it may write into memory, draw random numbers or hold an assertion."""
    if node.op in ("placeholder", "output", "call_module"):
        return True
    if node.op == "get_attr":
        return False
    return node.target is torch._assert or writes(node)
