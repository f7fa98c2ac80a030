"""Leave of a graph what runs in evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import fx

from fxprune.errors import PruneError
from fxprune.passes.base import Context, Pass, PassResult, Stage
from fxprune.tracing.graphs.modes import select_mode
from fxprune.tracing.graphs.one_mode import only_mode

__all__ = ["KeepEvaluation"]


@dataclass(frozen=True)
class KeepEvaluation(Pass):
    """``y = f(x) if training else None; z = select_mode(training, y, x)`` becomes ``z = x``.

    A flag has the value that it has after the model's own eval(): a part that stays in training there stays as it is.
    """

    name: ClassVar[str] = "keep-evaluation"
    stage: ClassVar[Stage] = "deployment"
    shapes: ClassVar[Literal["checked"]] = "checked"

    def requires(self, module: fx.GraphModule, context: Context | None = None) -> None:
        for node in module.graph.nodes:
            if node.target is only_mode and node.args[1]:
                raise PruneError(f"the model runs in training alone: {node.args[2]}")

    def run(self, module: fx.GraphModule, context: Context | None = None) -> PassResult:
        graph, before = module.graph, len(module.graph.nodes)
        for node in list(graph.nodes):
            if node.target is only_mode:
                graph.erase_node(node)
            elif node.target is select_mode:
                flag, training, evaluation = node.args
                put_for(node, training if _flag(module, str(flag.target)) else evaluation)
        for node in reversed(list(graph.nodes)):
            mode, flag = node.meta.pop("mode", None), node.meta.pop("flag", "training")
            if mode is not None and (mode == "training") is not _flag(module, flag):
                graph.erase_node(node)
        for node in list(graph.nodes):
            if node.op == "get_attr" and str(node.target).rpartition(".")[2] == "training":
                put_for(node, _flag(module, str(node.target)))
        return PassResult.of(nodes_removed=before - len(graph.nodes))


def put_for(node: fx.Node, value: Any) -> None:
    """Let all who read `node` read `value`, a node or a plain value, and take `node` out."""
    for user in list(node.users):
        user.args = fx.node.map_arg(user.args, lambda n: value if n is node else n)
        user.kwargs = fx.node.map_arg(user.kwargs, lambda n: value if n is node else n)
    node.graph.erase_node(node)


def _flag(module: fx.GraphModule, name: str) -> bool:
    return bool(module.get_submodule(name.rpartition(".")[0]).training)
