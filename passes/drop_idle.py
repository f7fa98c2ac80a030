"""Remove what does nothing in evaluation: identities and dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxprune.passes.base import Context, Pass, PassResult, Stage
from fxprune.passes.keep_evaluation import put_for
from fxprune.tracing.labelling.interpret import drop_unread
from fxprune.tracing.modules.hooks import hooked

__all__ = ["DropIdle"]

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Function -> the place of its flag `training`.
_FUNCTIONS: dict[Any, int] = {
    F.dropout: 2,
    F.dropout1d: 2,
    F.dropout2d: 2,
    F.dropout3d: 2,
    F.alpha_dropout: 2,
    F.feature_alpha_dropout: 2,
}


@dataclass(frozen=True)
class DropIdle(Pass):
    """``y = self.drop(x); z = self.act(y)`` becomes ``z = self.act(x)``; parts that nothing calls any more go with it.

    An `nn.Identity`, a dropout of torch.nn or torch.nn.functional that is not in training; each without hooks.
    """

    name: ClassVar[str] = "drop-idle"
    stage: ClassVar[Stage] = "deployment"
    shapes: ClassVar[Literal["checked"]] = "checked"

    def run(self, module: fx.GraphModule, context: Context | None = None) -> PassResult:
        nodes, parts = len(module.graph.nodes), sum(1 for _ in module.modules())
        for node in list(module.graph.nodes):
            if _idle(module, node):
                put_for(node, node.args[0])
        drop_unread(module.graph)
        module.delete_all_unused_submodules()
        removed = {"nodes_removed": nodes - len(module.graph.nodes), "parts_removed": parts - sum(1 for _ in module.modules())}
        return PassResult.of(**removed)


def _idle(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node hands on its first argument, the same tensor."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        idle = type(part) is nn.Identity or (type(part) in _DROPOUT and not part.training)
        return idle and not hooked(part)
    if node.op != "call_function":
        return False
    if node.target is torch.dropout:
        return node.kwargs.get("train", node.args[2] if len(node.args) > 2 else True) is False
    place = _FUNCTIONS.get(node.target)
    if place is None:
        return False
    default = node.target not in (F.alpha_dropout, F.feature_alpha_dropout)  # these two are idle unless asked
    return node.kwargs.get("training", node.args[place] if len(node.args) > place else default) is False
