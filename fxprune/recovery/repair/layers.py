"""Which nodes of a slim graph hold weights that can be fitted, or statistics that can be matched."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor, fx, nn

from fxprune.recovery.repair.norms import BatchNorm
from fxprune.recovery.repair.patches import CONVOLUTIONS, TRANSPOSED
from fxprune.state import named_tensors, tensor_names

__all__ = ["Layer", "Norm", "Site", "norm_of", "sites_of"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or linear layer of the slim model.

    Attributes:
        node: name of the node that runs it.
        name: what the report calls it.
        weight, bias: its tensors.
        convolution: the module, whose settings count; None of a linear layer.
        normed: nothing but a batch norm reads it, which takes any mean.
        why: it keeps its weights, because.
    """

    node: str
    name: str
    weight: Tensor
    bias: Tensor | None
    convolution: nn.Module | None
    normed: bool = False
    why: str = ""


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm with running statistics."""

    node: str
    name: str
    module: BatchNorm


Site = Layer | Norm

_LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)


def sites_of(slim: fx.GraphModule, names: set[str]) -> list[Site]:
    """The layers and norms of a slim model whose nodes are among `names`, in the order of the graph."""
    readers = _readers(slim, names)
    found: list[Site] = []
    for node in slim.graph.nodes:
        if node.name not in names:
            continue
        if (norm := norm_of(slim, node)) is not None:
            if readers[id(norm.module.running_mean)] == 1:
                found.append(norm)
        elif (layer := _layer(slim, node, names)) is not None:
            several = readers[id(layer.weight)] > 1 or (layer.bias is not None and readers[id(layer.bias)] > 1)
            why = "its weights are used at several places" if several else ""
            found.append(Layer(**{**layer.__dict__, "why": why}))
    return found


def _layer(slim: fx.GraphModule, node: fx.Node, names: set[str]) -> Layer | None:
    if node.op == "call_module":
        module = slim.get_submodule(str(node.target))
        kind = next((kind for kind in _LAYERS if type(module).forward is kind.forward), None)
        if kind is None:
            return None
        convolution = None if kind is nn.Linear else module
        users = [user for user in node.users if user.name in names]
        normed = bool(users) and all(norm_of(slim, user) is not None for user in users)
        return Layer(node.name, str(node.target), module.weight, module.bias, convolution, normed)  # type: ignore[arg-type]
    if node.op != "call_function" or getattr(node.target, "__name__", "") != "linear":
        return None
    given = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
    weight, bias = given.get("weight"), given.get("bias")
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return None
    if bias is not None and not (isinstance(bias, fx.Node) and bias.op == "get_attr"):
        return None
    tensors = named_tensors(slim)
    name = str(weight.target)
    return Layer(node.name, name, tensors[name], None if bias is None else tensors[str(bias.target)], None)


def norm_of(slim: fx.GraphModule, node: fx.Node) -> Norm | None:
    """The batch norm with running statistics that a node runs, if it does."""
    if node.op != "call_module":
        return None
    module = slim.get_submodule(str(node.target))
    plain = isinstance(module, BatchNorm) and module.running_mean is not None
    return Norm(node.name, str(node.target), module) if plain else None  # type: ignore[arg-type]


def _readers(slim: fx.GraphModule, names: set[str]) -> Counter[int]:
    """How many nodes read each tensor."""
    tensors, counts = named_tensors(slim), Counter[int]()
    known = tensor_names(slim)
    for node in slim.graph.nodes:
        if node.op == "get_attr" and str(node.target) in tensors:
            counts[id(tensors[str(node.target)])] += len([u for u in node.users if u.name in names])
        elif node.op == "call_module" and node.name in names:
            counts.update({id(t) for t in named_tensors(slim.get_submodule(str(node.target))).values() if id(t) in known})
    return counts
