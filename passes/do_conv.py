"""Convolutions whose kernel is a product of two factors while they are trained, and which of a model's may become such.

`OverParameterized` is the layer; `fxprune.passes.over_parameterize` and `fxprune.passes.fold_factors` are the passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from fxprune.errors import InputError
from fxprune.state import named_parts, named_tensors

__all__ = ["OverParameterized", "check_folded", "factored", "folded", "layers_of", "sites_of"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_KINDS: tuple[type[nn.modules.conv._ConvNd], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_CLASSES: dict[type, type[nn.Module]] = {}  # of those that were needed, by the plain class
_FUNCTIONS = (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class OverParameterized(nn.Module):
    """DO-Conv: a convolution that computes its kernel from two parameters whenever it is called::

        K[o, i, m] = sum_s (D_id + D)[i, m, s] W[o, i, s]

    Cao et al., "DO-Conv: Depthwise Over-parameterized Convolutional Layer", IEEE Transactions on Image Processing 31, 2022
    (arXiv 2006.12030), "kernel composition". ``m`` counts the places of the kernel, ``s`` from 0 to ``d_mul``, and ``D_id`` is
    the identity for the first places and 0 elsewhere. So ``D = 0`` gives the kernel ``W`` bit for bit, and a decay of ``D``
    draws to that and not to a kernel of zeros.

    Channel ``i`` is a channel of the layer's input, of grouped convolutions too. The published code (yangyanli/DO-Conv)
    reshapes ``W`` to ``[C_out / g, C_in, d_mul]`` instead. With one group, or one channel in and out a group, that is the same;
    otherwise it pairs entries of ``W`` with the ``D`` of other channels. It also begins with a random ``W``, and repeats the
    identity where ``d_mul`` is larger. In transposed convolutions, which the paper leaves out, the axes of ``W`` are those of
    their weight, ``[C_in, C_out / g, d_mul]``.

    An instance was a convolution of PyTorch's, and `weight` is its kernel, to read. A ``state_dict`` of the plain layer can be
    loaded: its weight is then ``W``, and ``D`` is 0.

    Attributes:
        W: ``[C_out, C_in / g, d_mul]``.
        D: ``[C_in, places of the kernel, d_mul]``.
        plain: the class that it was, and will be.
        memory: layout of the kernel.
    """

    plain: ClassVar[type[nn.modules.conv._ConvNd]]
    W: Tensor
    D: Tensor
    in_channels: int
    groups: int
    kernel_size: tuple[int, ...]
    memory: torch.memory_format

    @property
    def d_mul(self) -> int:
        return self.D.shape[2]

    @property
    def weight(self) -> Tensor:
        """The kernel ``[C_out, C_in / g, *kernel_size]`` (transposed: ``[C_in, C_out / g, *kernel_size]``), in the precision of
        the parameters, autocast or not."""
        places = self.D.shape[1]
        with _as_stored(self.W.device.type):
            kernel = self.W[..., :places] + self._product()
        return kernel.unflatten(-1, self.kernel_size).contiguous(memory_format=self.memory)

    def _product(self) -> Tensor:
        """``sum_s D[i, m, s] W[o, i, s]``, in the order of the axes of W."""
        if issubclass(self.plain, _TRANSPOSED):
            return self.W @ self.D.mT
        groups, wide = self.groups, self.in_channels // self.groups
        w = self.W.unflatten(0, (groups, self.W.shape[0] // groups)).transpose(1, 2)  # [g, C_in / g, C_out / g, d_mul]
        return (w @ self.D.unflatten(0, (groups, wide)).mT).transpose(1, 2).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, d_mul={self.d_mul}"

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take the weight of a plain layer, too."""
        weight = state_dict.get(f"{prefix}weight")
        if f"{prefix}W" not in state_dict and isinstance(weight, Tensor) and weight.dim() > 2:
            kernel, places = weight.detach().flatten(2), self.D.shape[1]
            if kernel.shape == self.W[..., :places].shape:
                del state_dict[f"{prefix}weight"]
                more = self.W.detach()[..., places:].to(kernel)
                state_dict[f"{prefix}W"] = torch.cat([kernel, more], 2)
                state_dict[f"{prefix}D"] = torch.zeros_like(self.D, dtype=kernel.dtype, device=kernel.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _as_stored(device: str) -> AbstractContextManager[Any]:
    """No autocast: what is trained and what is folded are one kernel."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _factored_class(plain: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a class of convolutions that computes its kernel."""
    if plain not in _CLASSES:
        _CLASSES[plain] = type(f"DO{plain.__name__}", (OverParameterized, plain), {"plain": plain, "__module__": __name__})
    return _CLASSES[plain]


def factored(layer: nn.Module, d_mul: int | None, draws: torch.Generator) -> None:
    """Turn a convolution, in place, into the `OverParameterized` one that computes the same.

    The object stays the one it was: whatever else holds it (lists, hooks, a second name) holds the new layer.

    Args:
        d_mul: None: the places of its kernel. What is more of ``W`` begins as in `torch.nn.Conv2d` (Kaiming uniform, a = sqrt
            5), and computes nothing until its ``D`` has been learnt.
        draws: of that.
    """
    weight = layer._parameters["weight"]
    assert weight is not None
    kernel = weight.detach().flatten(2).clone(memory_format=torch.contiguous_format)
    places = kernel.shape[2]
    wide = d_mul or places
    if wide > places:
        more = torch.empty(*kernel.shape[:2], wide - places, dtype=torch.float32)
        more.uniform_(-1, 1, generator=draws).div_(math.sqrt(max(kernel.shape[1] * wide, 1)))
        kernel = torch.cat([kernel, more.to(kernel)], 2)
    rest = {name: value for name, value in layer._parameters.items() if name != "weight"}
    learnt = kernel.new_zeros(int(layer.in_channels), places, wide)  # type: ignore[arg-type]
    layer.__dict__["_parameters"] = {"W": nn.Parameter(kernel), "D": nn.Parameter(learnt), **rest}
    layer.__dict__["memory"] = _memory_format(weight)
    layer.__class__ = _factored_class(type(layer))


def folded(layer: OverParameterized) -> None:
    """Turn an `OverParameterized` layer, in place, into the plain convolution with its kernel."""
    weight = layer.weight.detach().clone(memory_format=torch.preserve_format)
    rest = {name: value for name, value in layer._parameters.items() if name not in ("W", "D")}
    layer.__dict__["_parameters"] = {"weight": nn.Parameter(weight), **rest}
    del layer.__dict__["memory"]
    layer.__class__ = layer.plain  # type: ignore[assignment]  # which it was


def _memory_format(weight: Tensor) -> torch.memory_format:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(weight.dim())
    is_last = last is not None and not weight.is_contiguous() and weight.is_contiguous(memory_format=last)
    return last if is_last and last is not None else torch.contiguous_format


def layers_of(model: nn.Module) -> dict[str, OverParameterized]:
    """The over-parameterised layers of a model, each by its first name."""
    return {name: part for name, part in named_parts(model, once=True) if isinstance(part, OverParameterized)}


def check_folded(model: Any, what: str) -> None:
    """
    Args:
        what: cannot be done with factors, in a few words.

    Raises:
        InputError: a layer is over-parameterised.
    """
    found = layers_of(model) if isinstance(model, nn.Module) else {}
    if found:
        raise InputError(f"{next(iter(found))!r} is over-parameterised, and {what}: fold the model first, fxprune.fold(model)")


def sites_of(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The convolutions of a model that can be over-parameterised, and those that stay plain, with the reason."""
    owners: dict[int, list[str]] = {}
    parts = named_parts(model, once=True)
    for name, part in parts:
        for key, tensor in part._parameters.items():
            if tensor is not None:
                owners.setdefault(id(tensor), []).append(f"{name}.{key}" if name else key)
    read = _read_by_graphs(model)
    found: dict[str, nn.Module] = {}
    left: dict[str, str] = {}
    for name, part in parts:
        if isinstance(part, _KINDS):
            why = _why_plain(part, owners, read)
            if why:
                left[name] = why
            else:
                found[name] = part
    return found, left | dict(_functions(model))


def _why_plain(layer: nn.modules.conv._ConvNd, owners: Mapping[int, list[str]], read: set[int]) -> str:
    weight = layer._parameters.get("weight")
    if isinstance(layer, OverParameterized):
        return "it is over-parameterised already"
    if not isinstance(weight, nn.Parameter):
        return "its weight is computed from other tensors"
    if is_lazy(weight):
        return "its weight has no shape yet"
    if not any(type(layer).forward is kind.forward for kind in _KINDS) or "forward" in vars(layer):
        return "its forward is not that of torch.nn"
    if any(hasattr(layer, name) for name in ("W", "D", "d_mul", "memory", "plain")):
        return "it has attributes of the names that the factors take"
    if math.prod(layer.kernel_size) == 1:
        return "its kernel has one place, and needs no second factor"
    if not weight.requires_grad:
        return "its weight is not trained"
    if len(owners[id(weight)]) > 1:
        return f"its weight is tied: {' and '.join(owners[id(weight)])} are one tensor"
    if id(weight) in read:
        return "its weight is read outside of the layer"
    return ""


def _graphs(model: nn.Module) -> Iterator[tuple[str, fx.GraphModule]]:
    for name, part in named_parts(model, once=True):
        if isinstance(part, fx.GraphModule):
            yield f"{name}." if name else "", part


def _read_by_graphs(model: nn.Module) -> set[int]:
    """The tensors that nodes of graphs read by name."""
    found = set()
    for _, graph in _graphs(model):
        tensors = named_tensors(graph)
        found |= {id(tensors[str(n.target)]) for n in graph.graph.nodes if n.op == "get_attr" and str(n.target) in tensors}
    return found


def _functions(model: nn.Module) -> Iterator[tuple[str, str]]:
    for prefix, graph in _graphs(model):
        for node in graph.graph.nodes:
            if node.op == "call_function" and node.target in _FUNCTIONS:
                yield prefix + node.name, "it is a call of a function, not a layer"
