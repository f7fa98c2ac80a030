"""Functions that are called with all that a module holds, as layers.

y = F.linear(x, out.weight, out.bias)                       y = self.out(x)     # nn.Linear
y = F.layer_norm(y, (8,), norm.weight, norm.bias)     ->    y = self.norm(y)    # nn.LayerNorm
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

__all__ = ["layers_of_functions", "put"]


def layers_of_functions(whole: nn.Module) -> None:
    """Put layers and their calls in the place of such functions and modules; ``whole.graph`` is the graph."""
    graph: Any = whole.graph
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    tied = _tied(whole)
    for node in list(graph.nodes):
        arguments, make = LAYERS.get(node.target, ((), None)) if node.op == "call_function" else ((), None)
        given = {**dict(zip(arguments, node.args, strict=False)), **node.kwargs}
        weight, bias = given.get("weight"), given.get("bias")
        if make is None or not set(given) <= set(arguments) or not isinstance(weight, fx.Node) or weight.op != "get_attr":
            continue
        path, _, name = str(weight.target).rpartition(".")
        module = whole.get_submodule(path)
        held = {n for n, p in module._parameters.items() if p is not None}
        held |= {n for n, value in vars(module).items() if isinstance(value, Tensor)}
        if name != "weight" or not path or path in called or module._modules or module._buffers or id(module) in tied:
            continue
        expected = {"weight"} if bias is None else {"weight", "bias"}
        fits = bias is None or (isinstance(bias, fx.Node) and bias.op == "get_attr" and bias.target == f"{path}.bias")
        alone = all(len(n.users) == 1 for n in (weight, bias) if n is not None)
        layer = make(module, given) if held == expected and fits and alone and type(module) is nn.Module else None
        if layer is not None:
            layer._parameters.update(module._parameters)
            layer.training = module.training
            put(whole, path, layer)
            with graph.inserting_after(node):
                new = graph.call_module(path, (given["input"],))
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
            graph.erase_node(node)


def _linear(module: nn.Module, given: dict[str, Any]) -> nn.Module:
    rows, columns = module._parameters["weight"].shape  # type: ignore[union-attr]
    return nn.Linear(columns, rows, bias=given.get("bias") is not None, device="meta")


def _normed(module: nn.Module, given: dict[str, Any]) -> tuple[int, ...] | None:
    """The shape that is normalised, where the weight has it and no node decides on it."""
    shape, weight = given.get("normalized_shape"), module._parameters["weight"]
    if not isinstance(shape, (tuple, list)) or isinstance(given.get("eps"), fx.Node) or weight is None:
        return None
    return tuple(shape) if all(type(size) is int for size in shape) and tuple(shape) == tuple(weight.shape) else None


def _layer_norm(module: nn.Module, given: dict[str, Any]) -> nn.Module | None:
    shape = _normed(module, given)
    if shape is None:
        return None
    return nn.LayerNorm(shape, given.get("eps", 1e-5), bias=given.get("bias") is not None, device="meta")


def _rms_norm(module: nn.Module, given: dict[str, Any]) -> nn.Module | None:
    shape = _normed(module, given)
    return None if shape is None else nn.RMSNorm(shape, given.get("eps"), device="meta")


def _group_norm(module: nn.Module, given: dict[str, Any]) -> nn.Module | None:
    groups, eps = given.get("num_groups"), given.get("eps", 1e-5)
    if type(groups) is not int or isinstance(eps, fx.Node) or given.get("bias") is None:
        return None
    return nn.GroupNorm(groups, module._parameters["weight"].shape[0], eps, device="meta")  # type: ignore[union-attr]


Maker = Callable[[nn.Module, dict[str, Any]], "nn.Module | None"]
# Function -> its arguments, and what makes the layer that calls it.
LAYERS: dict[Any, tuple[tuple[str, ...], Maker]] = {
    F.linear: (("input", "weight", "bias"), _linear),
    F.layer_norm: (("input", "normalized_shape", "weight", "bias", "eps"), _layer_norm),
    F.rms_norm: (("input", "normalized_shape", "weight", "eps"), _rms_norm),
    F.group_norm: (("input", "num_groups", "weight", "bias", "eps"), _group_norm),
}


def put(whole: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another, by its name."""
    owner, _, name = path.rpartition(".")
    whole.get_submodule(owner)._modules[name] = module


def _tied(whole: nn.Module) -> set[int]:
    """Modules that have several names."""
    seen: set[int] = set()
    return {id(m) for _, m in whole.named_modules(remove_duplicate=False) if id(m) in seen or seen.add(id(m))}  # type: ignore[func-returns-value]
