"""Remove nodes whose results nothing needs (size arithmetic that became numbers), and the tensors that only they read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.passes.base import Context, Pass
from fxprune.tracing.interpret import keeps

__all__ = ["DropUnused"]


@dataclass(frozen=True)
class DropUnused(Pass):
    """``n = x.size(1)  # unused`` disappears; writes, random draws and assertions stay."""

    name: ClassVar[str] = "drop-unused"

    def run(self, module: fx.GraphModule, context: Context) -> Counter[str]:
        before = len(module.graph.nodes)
        module.graph.eliminate_dead_code(is_impure_node=keeps)
        read = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
        unread = [n for n in module._buffers if n in context.constants and n not in read]
        for name in unread:
            delattr(module, name)
            del context.constants[name]
        return Counter({"nodes removed": before - len(module.graph.nodes), "constants removed": len(unread)})
