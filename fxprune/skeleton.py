"""Copies of models and inputs on the meta device: shapes without memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import TraceError
from fxprune.propagate import LabelMode

__all__ = ["new_mode", "skeleton_of", "tensor_names", "to_meta"]


def skeleton_of(model: nn.Module) -> tuple[nn.Module, dict[int, Tensor]]:
    """A copy of the model on the meta device, and ``id(copy) -> original`` for all its tensors."""
    memo: dict[int, Any] = {}
    origin: dict[int, Tensor] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            if id(value) not in memo:
                memo[id(value)] = meta = _on_meta(value)
                origin[id(meta)] = value
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)

    for module in model.modules():
        for key, value in module.__dict__.items():
            if key != "_modules":
                visit(value)
    try:
        return copy.deepcopy(model, memo), origin
    except Exception as error:
        raise TraceError(f"the model cannot be copied ({type(error).__name__}: {error})") from error


def _on_meta(tensor: Tensor) -> Tensor:
    meta = torch.empty_like(tensor.detach(), device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(meta, requires_grad=tensor.requires_grad)
    return meta


def tensor_names(model: nn.Module) -> dict[int, str]:
    """``id(tensor) -> name`` of parameters and buffers; a tied tensor has its first name."""
    names: dict[int, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        names.setdefault(id(tensor), name)
    return names


def new_mode(skeleton: nn.Module, origin: Mapping[int, Tensor]) -> LabelMode:
    """A mode in which every parameter and buffer has fresh labels; integer buffers are known constants, and whole."""
    mode = LabelMode()
    for tensor in (*skeleton.parameters(), *skeleton.buffers()):
        if tensor.is_floating_point() or tensor.is_complex():
            mode.label(tensor, [mode.store.fresh(int(size)) for size in tensor.shape])
        source = origin.get(id(tensor))
        if source is not None and not source.is_floating_point() and not source.is_meta and source.dim():
            mode.set_known(tensor, source.detach().cpu())
    return mode


def to_meta(value: Any) -> Any:
    """Nested inputs with every tensor on the meta device."""
    if isinstance(value, Tensor):
        return torch.empty_like(value.detach(), device="meta")
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_meta(v) for v in value))
    if isinstance(value, (list, tuple)):
        return type(value)(to_meta(v) for v in value)
    if isinstance(value, dict):
        return {k: to_meta(v) for k, v in value.items()}
    return value
