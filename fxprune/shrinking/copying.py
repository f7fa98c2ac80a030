"""A copy of the user's model over the tensors of the slim one, whose layers of torch.nn have the slim sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.rewrite import Rewritten
from fxprune.state import copied, deep_copy, named_parts, named_tensors, replace_tensors

__all__ = ["own_copy_of", "resized_copy", "settle_by_tensors", "with_tensors_of"]

_INTERNAL = frozenset(nn.Module().__dict__)
_PLAIN = (bool, int, float, str, type(None), tuple, torch.Size)


def own_copy_of(model: nn.Module, rewritten: Rewritten, slim: fx.GraphModule) -> nn.Module:
    """The copy; what its own code still holds of the old sizes is for others to find."""
    made = resized_copy(model, slim)
    _held_tensors(made, rewritten, slim)
    return made


def resized_copy(model: nn.Module, slim: fx.GraphModule) -> nn.Module:
    """A copy over the slim tensors, with the layers resized, and nothing else."""
    made = deep_copy(model)
    with_tensors_of(made, slim)
    layers, original = dict(named_parts(slim)), dict(named_parts(model))
    leaves = {str(node.target) for node in slim.graph.nodes if node.op == "call_module"}
    for name, part in named_parts(made):
        settle_by_tensors(part, original[name])
        if name in leaves:
            _settle_as(part, layers[name])
    return made


def with_tensors_of(module: nn.Module, source: nn.Module) -> None:
    """Give a module copies of the tensors that `source` has under the same names."""
    there = named_tensors(source)
    with torch.no_grad():
        new = {id(t): copied(t, there[n].detach().clone()) for n, t in named_tensors(module).items() if n in there}
    replace_tensors(module, new)
    own = named_tensors(module)
    parts = dict(named_parts(module))
    for name, tensor in there.items():
        owner, _, key = name.rpartition(".")
        table = parts[owner]._parameters if owner in parts else {}
        if name not in own and key in table and table[key] is None:  # a repaired layer may have got a bias
            table[key] = copied(tensor, tensor.detach().clone())  # type: ignore[assignment]


def _held_tensors(made: nn.Module, rewritten: Rewritten, slim: fx.GraphModule) -> None:
    """Tensors that are plain attributes, which the graph holds as constants."""
    traced, there = rewritten.cut.analysis.traced, named_tensors(slim)
    held = {id(t): name for name, t in traced.constants.items() if name in there}
    if not held:
        return
    for _, part in named_parts(made, once=True):
        for key, value in part.__dict__.items():
            if isinstance(value, Tensor) and key not in _INTERNAL:
                same = next((n for n in held.values() if _equal(value, traced.constants[n])), None)
                if same is not None and there[same].shape != value.shape:
                    part.__dict__[key] = there[same].detach().clone()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and (a is b or (not b.is_meta and bool(torch.equal(a, b.to(a.device)))))


def _settle_as(part: nn.Module, layer: nn.Module) -> None:
    """The settings of a layer of the slim graph, where the part has settings of these names."""
    for key, value in layer.__dict__.items():
        if key in _INTERNAL or key not in part.__dict__ or not isinstance(value, _PLAIN):
            continue
        if isinstance(part.__dict__[key], _PLAIN) and part.__dict__[key] != value:
            part.__dict__[key] = value


def settle_by_tensors(part: nn.Module, before: nn.Module) -> None:
    """What layers that the graph does not call as such (convolutions with code of their own) remember of their tensors."""
    old, new = getattr(before, "weight", None), getattr(part, "weight", None)
    if isinstance(old, Tensor) and isinstance(new, Tensor) and old.shape != new.shape:
        for names, axis in _SIZES:
            for name in names:
                if type(part.__dict__.get(name)) is int and part.__dict__[name] == _at(old, axis):
                    part.__dict__[name] = _at(new, axis)
        shape = part.__dict__.get("normalized_shape")
        if isinstance(shape, (tuple, list)) and tuple(shape) == tuple(old.shape):
            part.__dict__["normalized_shape"] = type(shape)(new.shape)


def _at(tensor: Tensor, axis: int) -> Any:
    return tensor.shape[axis] if axis < tensor.dim() else None


# Attributes of layers -> the axis of the weight whose size they are.
_SIZES = (
    (("out_features", "num_features", "num_embeddings", "out_channels", "num_channels", "num_parameters"), 0),
    (("in_features", "in_channels", "embedding_dim"), 1),
)
