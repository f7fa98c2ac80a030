"""Which nodes of a slim graph hold weights that can be fitted, or statistics that can be matched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from fxprune.recovery.repair.calls import Call, call_of, input_among
from fxprune.recovery.repair.norms import BatchNorm
from fxprune.recovery.repair.patches import as_matrix, as_weight
from fxprune.state import named_tensors, tensor_names

__all__ = ["Layer", "Norm", "Site", "norm_of", "sites_of"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or linear layer of the slim model, or a product with a matrix of weights.

    Attributes:
        node: name of the node that runs it first.
        name: what the report calls it.
        call: its tensors and settings.
        nodes: names of all nodes that run it.
        normed: nothing but a batch norm reads it, which takes any mean.
        why: it keeps its weights, because.
    """

    node: str
    name: str
    call: Call
    nodes: tuple[str, ...]
    normed: bool = False
    why: str = ""

    @property
    def weight(self) -> Tensor:
        return self.call.weight

    @property
    def bias(self) -> Tensor | None:
        return self.call.bias

    @property
    def convolution(self) -> nn.Module | None:
        """The module, whose settings count; None of a linear layer."""
        return self.call.convolution

    def matrix(self) -> Tensor:
        """Its weights ``[groups, inputs, outputs]``."""
        weight = self.weight.detach()
        return as_matrix(self.convolution, weight.T if self.call.turned else weight)

    def as_weight(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        made = as_weight(self.convolution, matrix, self.weight)
        return made.T if self.call.turned else made

    def input_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """What a node that runs it reads."""
        found: Tensor = args[self.call.at] if len(args) > self.call.at else input_among(kwargs)
        return found


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm with running statistics."""

    node: str
    name: str
    module: BatchNorm


Site = Layer | Norm


def sites_of(slim: fx.GraphModule, names: set[str], running: Collection[str]) -> list[Site]:
    """The layers and norms of a slim model whose nodes are among `names`, in the order of the graph.

    A layer that runs several times is one site, at its first node.

    Args:
        running: names of all nodes that run.
    """
    readers = _readers(slim, running)
    found: list[Site] = []
    of_weight: dict[int, list[Layer]] = {}
    for node in slim.graph.nodes:
        if node.name not in names:
            continue
        if (norm := norm_of(slim, node)) is not None:
            if readers[id(norm.module.running_mean)] == 1:
                found.append(norm)
        elif (call := call_of(slim, node)) is not None:
            users = [user for user in node.users if user.name in names]
            normed = bool(users) and all(norm_of(slim, user) is not None for user in users)
            layer = Layer(node.name, call.name, call, (node.name,), normed)
            if id(call.weight) not in of_weight:
                found.append(layer)
            of_weight.setdefault(id(call.weight), []).append(layer)
    return [s if isinstance(s, Norm) else _together(of_weight[id(s.weight)], readers) for s in found]


def _together(calls: list[Layer], readers: Counter[int]) -> Layer:
    """All calls of one layer."""
    first = replace(calls[0], nodes=tuple(call.node for call in calls), normed=all(call.normed for call in calls))
    tensors = [first.weight] if first.bias is None else [first.weight, first.bias]
    alike = all(other.call.like(first.call) for other in calls)
    if not alike or any(readers[id(tensor)] != len(calls) for tensor in tensors):
        return replace(first, why="its weights are used at several places, in several ways")
    return first


def norm_of(slim: fx.GraphModule, node: fx.Node) -> Norm | None:
    """The batch norm with running statistics that a node runs, if it does."""
    if node.op != "call_module":
        return None
    module = slim.get_submodule(str(node.target))
    plain = isinstance(module, BatchNorm) and module.running_mean is not None
    return Norm(node.name, str(node.target), module) if plain else None  # type: ignore[arg-type]


def _readers(slim: fx.GraphModule, names: Collection[str]) -> Counter[int]:
    """How many nodes read each tensor."""
    tensors, counts = named_tensors(slim), Counter[int]()
    known = tensor_names(slim)
    for node in slim.graph.nodes:
        if node.op == "get_attr" and str(node.target) in tensors:
            counts[id(tensors[str(node.target)])] += len([u for u in node.users if u.name in names])
        elif node.op == "call_module" and node.name in names:
            counts.update({id(t) for t in named_tensors(slim.get_submodule(str(node.target))).values() if id(t) in known})
    return counts
