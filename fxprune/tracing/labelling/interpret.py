"""Run a graph node by node on the meta device, with labels; and what else depends on nodes one by one."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fxprune import nested
from fxprune.labels.store import Axis, Cause
from fxprune.tracing.contexts.autocasting import casting
from fxprune.tracing.graphs.modes import select_mode, writes
from fxprune.tracing.graphs.one_mode import only_mode
from fxprune.tracing.labelling.label_mode import LabelMode
from fxprune.tracing.labelling.moves import without_move
from fxprune.tracing.modules.lowering import plain_leaf, pure_leaf
from fxprune.tracing.skeleton import Skeleton
from fxprune.tracing.values.whole import is_whole

__all__ = [
    "FACTORIES",
    "Runner",
    "attribute_on_meta",
    "call_on_meta",
    "drop_unread",
    "keeps",
    "label_input",
    "label_outputs",
    "labels_of",
    "name_literal_axes",
    "run_graph",
]

FACTORIES = tuple(
    """
    arange zeros ones full empty rand randn randint linspace logspace eye tensor as_tensor randperm tril_indices
    triu_indices
    """.split()
)
_OF_NUMBERS = (torch.tensor, torch.as_tensor, torch.scalar_tensor)


class Runner:
    """Runs single nodes on the meta device, with labels."""

    def __init__(self, skeleton: Skeleton, mode: LabelMode, lowered: Mapping[str, type[nn.Module]]) -> None:
        self.modules, self.mode, self.lowered = skeleton.names.modules, mode, lowered
        self.device = skeleton.device
        self._leaves: dict[str, nn.Module] = {}

    def __call__(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a call of a module, method or function, given those of its arguments."""
        mode = self.mode
        mode.node, mode.source = node.name, node.meta.get("source", "")
        mode.arguments = None if node.op == "call_module" else (node.args, node.kwargs)
        if node.op == "call_module":
            with mode, casting(node, self.device):
                return self._leaf(str(node.target))(*args, **kwargs)
        mode.acted = False
        with mode, casting(node, self.device):
            value = call_on_meta(node.target, args, kwargs, self.device)
        if mode.acted:
            node.meta["acts"] = True
        if node.target == "stride":
            _fix_within(mode, *args)
        if node.target in _OF_NUMBERS and isinstance(value, Tensor) and not nested.tensors((args, kwargs)):
            mode.set_known(value, node.target(*args, **{**kwargs, "device": "cpu"}))
        return value

    def _leaf(self, name: str) -> nn.Module:
        module = self._leaves.get(name)
        if module is None:
            module = self.modules[name]
            module = pure_leaf(module, self.lowered[name]) if name in self.lowered else plain_leaf(module)
            self._leaves[name] = module
        return module


def _fix_within(mode: LabelMode, tensor: Tensor, dim: int) -> None:
    """Where code reads a stride, the axes that lie within it stay whole: it is a product of their sizes."""
    strides, axes = tensor.stride(), mode.axes(tensor)
    for axis, stride in zip(axes, strides, strict=True):
        if axis is not axes[dim] and stride <= strides[dim]:
            mode.store.fix(axis, mode.cause("a stride over it is read"))


def run_graph(
    graph: fx.Graph,
    skeleton: Skeleton,
    mode: LabelMode,
    constants: Mapping[str, Tensor],
    lowered: Mapping[str, type[nn.Module]],
) -> dict[fx.Node, Any]:
    """Values of all nodes on the meta device, for the example inputs; `mode` labels them."""
    values: dict[fx.Node, Any] = {}
    given = iter((*skeleton.args, *skeleton.named.values()))
    run_node = Runner(skeleton, mode, lowered)
    with torch.inference_mode():
        for node in graph.nodes:
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "placeholder":
                values[node] = next(given)
                label_input(mode, values[node])
            elif node.op == "get_attr":
                values[node] = attribute_on_meta(skeleton.module, mode, str(node.target), constants)
            elif node.op == "output":
                values[node] = args[0]
                label_outputs(mode, args[0])
            else:
                values[node] = run_node(node, args, kwargs)
                if node.target is select_mode:
                    _join_modes(mode, args[1], args[2])
    return values


def call_on_meta(target: Any, args: Any, kwargs: dict[str, Any], device: str = "cpu") -> Any:
    """Call a function, or a method by its name; a factory that names no device makes its tensor on the meta device.

    Args:
        device: the kind of device that the model is on.
    """
    if target is only_mode:  # of the model that will run
        return None
    target, args, kwargs = without_move(target, args, kwargs, device)
    name = target if type(target) is str else getattr(target, "__name__", "")
    if name in _FILLS and (made := _emptied(name, args, kwargs)) is not None:
        args, kwargs = made
        target = _FILLS[name] if type(target) is str else getattr(torch, _FILLS[name])
    if type(target) is str:
        return getattr(args[0], target)(*args[1:], **kwargs)
    if name in FACTORIES and kwargs.get("device") is None:
        kwargs = {**kwargs, "device": torch.device("meta")}
    return target(*args, **kwargs)


_FILLS = {"full": "empty", "new_full": "new_empty", "full_like": "empty_like"}


def _emptied(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments without the value to fill with, where that is a tensor, which is no number on the meta device."""
    place = 2 if name == "new_full" else 1
    value = args[place] if len(args) > place else kwargs.get("fill_value")
    if not isinstance(value, Tensor):
        return None
    left = {k: v for k, v in kwargs.items() if k != "fill_value"}
    if name == "full" and left.get("dtype") is None:
        left["dtype"] = value.dtype
    return args[:place], left


def attribute_on_meta(skeleton: nn.Module, mode: LabelMode, name: str, constants: Mapping[str, Tensor]) -> Any:
    if name in constants:
        value = torch.empty_like(constants[name], device="meta")
        mode.set_known(value, constants[name].detach().cpu())
        return value
    return operator.attrgetter(name)(skeleton)


def _join_modes(mode: LabelMode, a: Any, b: Any) -> None:
    """Both arms feed the same users: equal shapes are the same channels, anything else stays whole."""
    cause = mode.cause("differs between training and evaluation")
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for x, y in zip(a, b, strict=True):
            _join_modes(mode, x, y)
        return
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape:
        for x, y in zip(mode.axes(a), mode.axes(b), strict=True):
            mode.store.unify(x, y, cause)
        return
    for tensor in nested.tensors((a, b)):
        for axis in mode.axes(tensor):
            mode.store.fix(axis, cause)


def label_input(mode: LabelMode, value: Any) -> None:
    """The sizes of the model's inputs are free, and no entry of them can be removed."""
    for tensor in nested.tensors(value):
        mode.label(tensor, [Axis(int(size), None, True) for size in tensor.shape])


def label_outputs(mode: LabelMode, value: Any) -> None:
    """The model's outputs keep all their entries."""
    cause = mode.store.cause(Cause("part of the model's output"))
    for tensor in nested.tensors(value):
        for axis in mode.axes(tensor):
            mode.store.fix(axis, cause)


def name_literal_axes(mode: LabelMode, node: fx.Node, args: Any, value: Any) -> None:
    """Sizes that a reshape names as numbers do not follow the input, even where they divide an axis that does."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if name not in ("view", "reshape", "unflatten") or not isinstance(value, Tensor):
        return
    sizes: Any = node.args[1:]  # a size that follows the input is a node here
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    offset = 0
    if name == "unflatten":
        sizes = node.args[2]
        offset = args[1] % (value.dim() - len(sizes) + 1)
    axes = list(mode.axes(value))
    for position, size in enumerate(sizes, start=offset):
        if type(size) is int and size >= 0 and axes[position].dynamic:
            axes[position] = Axis(axes[position].size, axes[position].labels)
    mode.label(value, axes)


def labels_of(mode: LabelMode, value: Any) -> Any:
    """A node's value with each tensor replaced by the tuple of its axes, and anything else by None."""
    return nested.map(lambda v: mode.axes(v) if isinstance(v, Tensor) else None, value)


def drop_unread(graph: fx.Graph) -> None:
    """Remove what nothing reads, but for what must stay (`keeps`)."""
    for node in reversed(graph.nodes):
        if not node.users and not keeps(node):
            graph.erase_node(node)


def keeps(node: fx.Node) -> bool:
    """Whether a node without users must stay: it may write into memory, draw random numbers or hold an assertion."""
    if node.op in ("placeholder", "output", "call_module"):
        return True
    if node.op == "get_attr":
        return "decides" in node.meta  # a flag that says in which mode other nodes run
    return "acts" in node.meta or node.target in (torch._assert, only_mode) or writes(node) or is_whole(node)
