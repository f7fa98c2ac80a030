"""Set channel sizes in the arguments of functions and methods, and check every node's shape against the prediction.

The graph runs node by node on the meta device. At each node the labels say what shape its result must have; an argument
that names a channel size (``x.reshape(B, N, 3, 64)``, ``x[:, :32]``, ``F.pad(x, (0, 0, 0, 0, 4, 4))``) is set to what
remains of it. Sizes read from tensors at run time are right already and stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import fx

from fxprune.labels.store import axes_in
from fxprune.labels.table import key_of, known
from fxprune.passes.arguments import Site
from fxprune.passes.base import Context, Pass, PassResult
from fxprune.passes.shapes import run_on_shapes

__all__ = ["ResizeArguments"]


@dataclass(frozen=True)
class ResizeArguments(Pass):
    """``x.reshape(B, N, 3, 6, 64) -> x.reshape(B, N, 3, 6, 32)``."""

    name: ClassVar[str] = "resize-arguments"
    shapes: ClassVar[Literal["checked"]] = "checked"

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        changed = 0

        def repair(node: fx.Node, values: dict[fx.Node, Any]) -> None:
            nonlocal changed
            operator = known(key_of(node.op, node.target))
            if operator is not None and operator.repair is not None and _touched(context, node):
                changed += operator.repair(Site(node, module, context, values))

        run_on_shapes(module, context, repair)
        return PassResult.of(arguments_set=changed)


def _touched(context: Context, node: fx.Node) -> bool:
    axes = axes_in([context.axes(n) for n in (node, *node.all_input_nodes)])
    return any(context.cut.kept(a) is not None for a in axes)
