"""What follows a layer up to its activation: a batch norm, the residual stream that it is added to, and a rectifier."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from fxprune.labels.table import key_of
from fxprune.recovery.repair.layers import Norm, norm_of
from fxprune.recovery.repair.moments import widened
from fxprune.state import named_tensors
from fxprune.statistics.kinds import is_sum
from fxprune.tracing.graphs.modes import writes

__all__ = ["Tail", "tail_of"]

_FLAT = 1e-2  # a channel whose norm scales it by less than this share of the others' can make up for nothing
_RECTIFIERS = {"relu": (0.0, math.inf), "relu_": (0.0, math.inf), "relu6": (0.0, 6.0)}
Bounds = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Tail:
    """What a layer's output ``y`` alone goes through: ``clamp(slope y + shift + other, low, high)``.

    Attributes:
        norm: a batch norm, in evaluation: ``slope = weight / sqrt(running_var + eps)``; None where there is none.
        other: names of the nodes that give the other operand of a sum, a residual stream, in the dense model and in the slim;
            None where there is none. They differ where a branch before it went: the slim one's stream lacks what that added.
        bounds: low and high end of a rectifier, or None.
    """

    norm: Norm | None = None
    other: tuple[str, str] | None = None
    bounds: Bounds | None = None

    def line(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """``slope`` and ``shift``, as many as the channels on the last axis of `like`."""
        if self.norm is None:
            return like.new_ones(like.shape[-1]), like.new_zeros(like.shape[-1])
        module = self.norm.module
        slope = torch.rsqrt(module.running_var + module.eps)  # type: ignore[operator, arg-type]
        slope = slope if module.weight is None else slope * module.weight.detach()
        shift = -slope * module.running_mean  # type: ignore[operator]
        shift = shift if module.bias is None else shift + module.bias.detach()
        return widened(slope), widened(shift)

    def lack(self, missing: Tensor) -> Tensor:
        """What the layer's output ``[n, channels]`` should have more than the dense layer's so that the sum is the dense one::

            slope (y + lack) + slim = slope y + dense        lack = (dense - slim) / slope

        Args:
            missing: ``dense - slim``, of the other operand in the two models.
        """
        return missing * inverted(self.line(missing)[0])


def inverted(slope: Tensor) -> Tensor:
    """``1 / slope``, and zero of channels that are flat beside the others."""
    steep = slope.abs() > _FLAT * slope.abs().median()
    return torch.where(steep, 1 / torch.where(steep, slope, 1), 0)


def tail_of(dense: fx.GraphModule, slim: fx.GraphModule, names: set[str], layer: str) -> Tail:
    """What follows a layer, as far as it is known: at most a batch norm, a sum, a rectifier, and dropout between them.

    The other operand of a sum counts where it is settled when the turn is the layer's, and the rectifier behind it only then.

    Args:
        names: nodes that both graphs have, as the same operation.
        layer: name of the layer's node.
    """
    node = next(n for n in slim.graph.nodes if n.name == layer)
    tail = Tail()
    while True:
        users = list(node.users)
        if len(users) != 1 or users[0].name not in names:
            return tail
        (user,) = users
        found = norm_of(slim, user)
        if (bounds := _bounds(slim, user)) is not None:
            return replace(tail, bounds=bounds)
        if _adds(user) and tail.other is None:
            same = next(n for n in dense.graph.nodes if n.name == user.name)
            others = [[n.name for n in each.all_input_nodes if n.name != node.name] for each in (same, user)]
            if [len(each) for each in others] != [1, 1]:
                return tail
            ((theirs,), (own,)) = others
            if not (_settled(dense, theirs, layer) and _settled(slim, own, layer)):
                return tail
            tail = replace(tail, other=(theirs, own))
        elif found is not None and tail.norm is None and tail.other is None:
            tail = Tail(found)
        elif user.op != "call_module" or not isinstance(slim.get_submodule(str(user.target)), (nn.Identity, nn.Dropout)):
            return tail
        node = user


def _bounds(slim: fx.GraphModule, node: fx.Node) -> Bounds | None:
    """Where a node cuts its one input off, if that is what it does."""
    if node.op == "call_module":
        module = slim.get_submodule(str(node.target))
        if type(module).forward is nn.ReLU.forward:
            return 0.0, math.inf
        if isinstance(module, nn.Hardtanh) and type(module).forward is nn.Hardtanh.forward:
            return float(module.min_val), float(module.max_val)
        return None
    return _RECTIFIERS.get(key_of(node.op, node.target).removeprefix("aten::")) if len(node.all_input_nodes) == 1 else None


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
