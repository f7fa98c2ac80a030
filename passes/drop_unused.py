"""Remove nodes whose results nothing needs (size arithmetic that became numbers), and the tensors that only they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import fx

from fxprune.errors import PruneError
from fxprune.passes.base import Context, Pass, PassResult
from fxprune.tracing.labelling.interpret import drop_unread

__all__ = ["DropUnused"]


@dataclass(frozen=True)
class DropUnused(Pass):
    """``n = x.size(1)  # unused`` disappears; writes, random draws and assertions stay."""

    name: ClassVar[str] = "drop-unused"
    # Nodes that stay compute what they did; the linter finds one that reads a node that is gone.
    shapes: ClassVar[Literal["checked"]] = "checked"

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        before = len(module.graph.nodes)
        drop_unread(module.graph)
        read = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
        unread = [n for n in module._buffers if n in context.constants and n not in read]
        for name in unread:
            delattr(module, name)
            del context.constants[name]
        return PassResult.of(nodes_removed=before - len(module.graph.nodes), constants_removed=len(unread))

    def ensures(self, module: fx.GraphModule, context: Context) -> None:
        for name in context.constants:
            if not hasattr(module, name):
                raise PruneError(f"the constant {name!r} is still listed, but the model does not hold it any more")
