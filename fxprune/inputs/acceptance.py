"""Which models can be worked on: what is no model, or holds its weights in another way, is refused by name before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fxprune.errors import InputError, shown
from fxprune.state import named_parts, named_tensors

__all__ = ["check_finite", "check_model", "check_values", "some"]

_WRAPPERS = ("torch.nn.parallel.", "torch.distributed.")
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
_SHOWN = 3  # names that a message gives


def check_model(model: Any) -> None:
    """
    Raises:
        InputError: this is no model, or its weights are no plain tensors of its own: it is wrapped for several processes or
            devices, quantized, sparse, distributed, or only a part of it has values.
    """
    if not isinstance(model, nn.Module):
        made = " (a class: give a model, which a call of it makes)" if isinstance(model, type) else ""
        raise InputError(f"model must be an nn.Module, not {shown(model)}{made}")
    for name, part in named_parts(model, once=True):
        kind = type(part)
        if kind.__module__.startswith("torch.") and (why := _wrapped(kind, part)):
            raise InputError(f"{f'the part {name!r}' if name else 'the model'} is {why}")
    tensors = named_tensors(model, once=True)
    for name, tensor in tensors.items():
        if why := _no_plain_tensor(tensor):
            raise InputError(f"{name!r} is {why}")
    empty = [name for name, tensor in tensors.items() if tensor.is_meta]
    if empty and len(empty) < len(tensors):
        raise InputError(f"{len(empty)} of {len(tensors)} tensors are on the meta device, without values: load {some(empty)}")


def _wrapped(kind: type, part: nn.Module) -> str:
    if isinstance(getattr(part, "module", None), nn.Module) and kind.__module__.startswith(_WRAPPERS):
        return f"wrapped in {kind.__name__}: give the module inside, its .module, and wrap the result"
    if kind.__module__.startswith(_QUANTIZED) and "FloatFunctional" not in kind.__name__:  # which adds in float
        return f"quantized ({kind.__name__}), whose packed weights have no channels: prune the float model, then quantize"
    return ""


def _no_plain_tensor(tensor: Tensor) -> str:
    """What a parameter or buffer is instead of a tensor with entries that can be taken."""
    if type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized:
        return "a tensor with named axes: drop them with .rename(None)" if getattr(tensor, "has_names", bool)() else ""
    if is_lazy(tensor):
        return ""  # which the recorder refuses, and says how to give it a shape
    if hasattr(tensor, "placements") or hasattr(tensor, "_local_tensor"):
        return "spread over processes (DTensor): gather the whole model in one process, prune that, and distribute the result"
    if tensor.is_quantized:
        return f"quantized ({tensor.dtype}): prune the float model, and quantize the result"
    if tensor.layout is not torch.strided:
        return f"sparse ({tensor.layout}): make it dense with .to_dense(), as channels are whole slices of tensors"
    plain = isinstance(tensor, nn.Parameter) and issubclass(type(tensor), nn.Parameter)
    if plain or (type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__ and _plain_functions(type(tensor))):
        return ""
    return f"a {type(tensor).__name__}, a subclass of Tensor with ways of its own: give a plain tensor"


def _plain_functions(kind: Any) -> bool:
    return kind.__torch_function__ in (torch._C._disabled_torch_function_impl,)


def check_values(model: nn.Module, instead: str) -> None:
    """
    Args:
        instead: what to do without values.

    Raises:
        InputError: the model has shapes alone.
    """
    if any(tensor.is_meta for tensor in named_tensors(model, once=True).values()):
        raise InputError(f"{type(model).__name__} is on the meta device and has no values: load weights, or {instead}")


def check_finite(tensors: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """
    Raises:
        InputError: a tensor of these names holds NaN or infinity: channels cannot be ranked by that.
    """
    floats = {n: t for n in names if (t := tensors[n]).is_floating_point() and not t.is_meta and t.itemsize > 1}
    sums: dict[Any, list[Tensor]] = {}
    with torch.no_grad():
        for tensor in floats.values():
            # A sum is much faster than a look at each entry, and only NaN, infinity and huge values make it infinite.
            total = tensor.sum(dtype=torch.float32 if tensor.itemsize < 4 else None)
            sums.setdefault((total.device, total.dtype), []).append(total)
        if all(torch.isfinite(torch.stack(totals)).all() for totals in sums.values()):
            return
        wrong = [f"{n} of {t.numel()} in {name!r}" for name, t in floats.items() if (n := int((~torch.isfinite(t)).sum()))]
    if wrong:
        raise InputError(f"channels cannot be ranked by weights that are NaN or infinite: {some(wrong)}; load other weights")


def some(items: list[str]) -> str:
    """The first few of many."""
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
