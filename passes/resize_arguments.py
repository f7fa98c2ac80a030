"""Set channel sizes in the arguments of functions and methods, and check every node's shape against the prediction.

The graph runs node by node on the meta device. At each node the labels say what shape its result must have; an argument
that names a channel size (``x.reshape(B, N, 3, 64)``, ``x[:, :32]``, ``F.pad(x, (0, 0, 0, 0, 4, 4))``) is set to what
remains of it. Sizes read from tensors at run time are right already and stay.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from fxprune import nested
from fxprune.labels.store import axes_in
from fxprune.labels.table import key_of, known
from fxprune.passes.arguments import Site
from fxprune.passes.base import Context, Mismatch, Pass
from fxprune.tracing.interpret import call_on_meta
from fxprune.tracing.quick_shapes import QuickShapes

__all__ = ["ResizeArguments"]


@dataclass(frozen=True)
class ResizeArguments(Pass):
    """``x.reshape(B, N, 3, 6, 64) -> x.reshape(B, N, 3, 6, 32)``."""

    name: ClassVar[str] = "resize-arguments"

    def run(self, module: fx.GraphModule, context: Context) -> Counter[str]:
        counters: Counter[str] = Counter()
        args, named = context.traced.inputs
        inputs = iter((*args, *named.values()))
        values: dict[fx.Node, Any] = {}
        flags = {name: part.training for name, part in module.named_modules()}
        module.eval()
        with torch.inference_mode(), QuickShapes():
            for node in list(module.graph.nodes):
                if node.op == "placeholder":
                    values[node] = next(inputs)
                    continue
                if node.op == "output":
                    break
                expected = context.axes(node)
                operator = known(key_of(node.op, node.target))
                if operator is not None and operator.repair is not None and _touched(context, node):
                    counters["arguments set"] += operator.repair(Site(node, module, context, values))
                values[node] = _evaluate(module, node, values, context)
                _check(context, node, values[node], expected)
        for name, part in module.named_modules():
            part.training = flags[name]
        return counters


def _touched(context: Context, node: fx.Node) -> bool:
    axes = axes_in([context.axes(n) for n in (node, *node.all_input_nodes)])
    return any(context.cut.kept(a) is not None for a in axes)


def _evaluate(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], context: Context) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    try:
        if node.op == "get_attr":
            found: Any = module
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found
        if node.op == "call_module":
            return module.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return call_on_meta(node.target, args, kwargs)
    except Exception as error:
        raise Mismatch(f"{node.format_node()} cannot run on fewer channels: {error}", context.groups_touching(node)) from error


def _check(context: Context, node: fx.Node, value: Any, expected: Any) -> None:
    def check(v: Any, axes: Any) -> None:
        if not isinstance(v, Tensor) or tuple(v.shape) == context.cut.shape(axes):
            return
        shape, predicted = tuple(v.shape), context.cut.shape(axes)
        # Those of the axes that are wrong, if that tells; else whatever the operation touches.
        wrong = [a for a, n, m in zip(axes, shape, predicted, strict=False) if n != m]
        groups = context.cut.groups_at(wrong) or context.groups_touching(node)
        raise Mismatch(f"node {node.name} has shape {shape} where {predicted} is predicted", groups)

    nested.map(check, value, expected)
