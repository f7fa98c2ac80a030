"""The shape of every node on the meta device, against what the labels predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from fxprune import nested
from fxprune.passes.base import Context, Mismatch
from fxprune.state import meta_copies, named_parts, set_modes
from fxprune.tracing.contexts.autocasting import casting
from fxprune.tracing.labelling.interpret import call_on_meta
from fxprune.tracing.labelling.quick_leaves import quick_leaf
from fxprune.tracing.labelling.quick_shapes import QuickShapes

__all__ = ["check_shapes", "run_on_shapes"]

Visit = Callable[[fx.Node, dict[fx.Node, Any]], None]


def check_shapes(module: fx.GraphModule, context: Context) -> None:
    """Run a graph on shapes alone, weights or none.

    Raises:
        Mismatch: a node cannot run, or its value has another shape than predicted.
    """
    with meta_copies(module):
        run_on_shapes(module, context)


def run_on_shapes(module: fx.GraphModule, context: Context, before: Visit | None = None) -> None:
    """Run a graph over meta tensors node by node, in evaluation, and compare each value with its prediction.

    Args:
        before: sees each node, and the values of those before it, when it is about to run: it may change its arguments.

    Raises:
        Mismatch: a node cannot run, or its value has another shape than predicted.
    """
    args, named = context.traced.inputs
    inputs = iter((*args, *named.values()))
    values: dict[fx.Node, Any] = {}
    run = _Run(module, context)
    with _evaluating(module), torch.inference_mode():
        for node in list(module.graph.nodes):
            if node.op == "placeholder":
                values[node] = next(inputs)
            elif node.op != "output":
                if before is not None:
                    before(node, values)
                values[node] = run(node, values)
                if node in context.origin:
                    _compare(context, node, values[node])


@contextmanager
def _evaluating(module: fx.GraphModule) -> Iterator[None]:
    flags = [(part, part.training) for _, part in named_parts(module, once=True)]
    set_modes((part, False) for part, _ in flags)
    try:
        yield
    finally:
        set_modes(flags)


class _Run:
    """Runs the nodes of one graph."""

    def __init__(self, module: fx.GraphModule, context: Context) -> None:
        self.module, self.context = module, context
        self.parts = dict(named_parts(module))
        self.mode = QuickShapes()
        self.device = context.traced.device

    def __call__(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            return getattr(self.parts[owner], name)
        part = self.parts[str(node.target)] if node.op == "call_module" else None
        found = None if part is None or "region" in node.meta else quick_leaf(part, args, kwargs)
        if found is not None:
            return found
        try:
            with self.mode, casting(node, self.device):
                if part is not None:
                    return part(*args, **kwargs)
                return call_on_meta(node.target, args, kwargs)
        except Exception as error:
            if self._as_recorded(node, values):
                return self.context.traced.values[self.context.origin[node]]
            if (numbers := self._numbers(node)) and part is None:
                args, kwargs = map_arg((node.args, node.kwargs), (values | numbers).__getitem__)
                with suppress(Exception), self.mode, casting(node, self.device):
                    return call_on_meta(node.target, args, kwargs)
            message = f"{node.format_node()} cannot run on fewer channels: {error}"
            raise Mismatch(message, self.context.groups_touching(node)) from error

    def _numbers(self, node: fx.Node) -> dict[fx.Node, Tensor]:
        """The arguments of a node that hold one number, known since the recording: places where it slices, for example."""
        traced, found = self.context.traced, {}
        for source in node.all_input_nodes:
            value = traced.values.get(self.context.origin.get(source, source))
            known = traced.mode.known(value) if isinstance(value, Tensor) and value.numel() == 1 else None
            if known is not None:
                found[source] = known
        return found

    def _as_recorded(self, node: fx.Node, values: dict[fx.Node, Any]) -> bool:
        """Whether a call of a function gets what it got while it was recorded, so that its value is known.

        Operators that read values (``torch.istft`` looks whether its window vanishes) run there alone.
        """
        old = self.context.origin.get(node)
        if old is None or node.op == "call_module" or old.target is not node.target:
            return False
        pairs = list(zip(node.all_input_nodes, old.all_input_nodes, strict=False))
        known = self.context.traced.values
        return all(_shapes(values[new]) == _shapes(known[before]) for new, before in pairs) and len(pairs) == len(
            old.all_input_nodes
        )


def _shapes(value: Any) -> Any:
    """A value with tensors replaced by their shapes."""
    return nested.map(lambda v: tuple(v.shape) if isinstance(v, Tensor) else v, value)


def _compare(context: Context, node: fx.Node, value: Any) -> None:
    def compare(v: Any, axes: Any) -> None:
        if not isinstance(v, Tensor) or tuple(v.shape) == context.cut.shape(axes):
            return
        shape, predicted = tuple(v.shape), context.cut.shape(axes)
        # Those of the axes that are wrong, if that tells; else whatever the operation touches.
        wrong = [a for a, n, m in zip(axes, shape, predicted, strict=False) if n != m]
        groups = context.cut.groups_at(wrong) or context.groups_touching(node)
        raise Mismatch(f"node {node.name} has shape {shape} where {predicted} is predicted", groups)

    nested.map(compare, value, context.axes(node))
