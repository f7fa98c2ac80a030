"""Residual streams: what a layer's output is added to, whose own error the layer can make up for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fxprune.recovery.repair.layers import Norm, norm_of
from fxprune.recovery.repair.moments import widened
from fxprune.state import named_tensors
from fxprune.statistics.kinds import is_sum
from fxprune.tracing.graphs.modes import writes

__all__ = ["Stream", "stream_of"]

_FLAT = 1e-2  # a channel whose norm scales it by less than this share of the others' can make up for nothing


@dataclass(frozen=True, eq=False)
class Stream:
    """The other operand of the sum that a layer's output goes into.

    Attributes:
        other: name of its node.
        norm: between the layer and the sum, or None.
    """

    other: str
    norm: Norm | None

    def lack(self, dense: Tensor, slim: Tensor) -> Tensor:
        """What the layer's output should have more than the dense layer's so that the sum is the dense one::

            norm(y + lack) + slim = norm(y) + dense        lack = (dense - slim) / slope

        with ``slope = weight / sqrt(running_var + eps)`` of the norm.

        Args:
            dense, slim: the other operand ``[n, channels]`` in the dense model, at the channels that are kept, and in the slim.
        """
        lack = dense - slim
        if self.norm is None:
            return lack
        module = self.norm.module
        slope = torch.rsqrt(module.running_var + module.eps)  # type: ignore[operator, arg-type]
        slope = widened(slope if module.weight is None else slope * module.weight.detach())
        steep = slope.abs() > _FLAT * slope.abs().median()
        return torch.where(steep, lack / torch.where(steep, slope, 1), 0)


def stream_of(dense: fx.GraphModule, slim: fx.GraphModule, names: set[str], layer: str) -> Stream | None:
    """The stream that a layer's output alone is added to, by way of at most a batch norm and dropout; None where there is none,
    and where it is not settled yet when the turn is the layer's.

    Args:
        names: nodes that both graphs have, as the same operation.
        layer: name of the layer's node.
    """
    start = node = next(n for n in slim.graph.nodes if n.name == layer)
    norm: Norm | None = None
    while True:
        users = list(node.users)
        if len(users) != 1 or users[0].name not in names:
            return None
        (user,) = users
        if _adds(user):
            break
        found = norm_of(slim, user)
        if found is not None and norm is None:
            norm = found
        elif user.op != "call_module" or not isinstance(slim.get_submodule(str(user.target)), (nn.Identity, nn.Dropout)):
            return None
        node = user
    others = [n.name for n in user.all_input_nodes if n is not node]
    if len(others) != 1 or others[0] not in names:
        return None
    both = all(_settled(graph, others[0], start.name) for graph in (dense, slim))
    return Stream(others[0], norm) if both else None


def _adds(node: fx.Node) -> bool:
    """Whether a node is ``a + b`` of two values."""
    return is_sum(node) and "sub" not in str(getattr(node.target, "__name__", node.target)) and not node.kwargs


def _settled(graph: fx.GraphModule, name: str, layer: str) -> bool:
    """Whether what a node gives is known once the layer has run: nothing that is yet to run for it has weights (these may still
    be repaired) or writes in place."""
    nodes = list(graph.graph.nodes)
    place = {node.name: number for number, node in enumerate(nodes)}
    pending = [nodes[place[name]]]
    while pending:
        node = pending.pop()
        if node.name == layer or node.op == "get_attr" or (place[node.name] > place[layer] and writes(node)):
            return False
        if place[node.name] < place[layer]:
            continue
        if node.op == "call_module" and named_tensors(graph.get_submodule(str(node.target))):
            return False
        pending += node.all_input_nodes
    return True
