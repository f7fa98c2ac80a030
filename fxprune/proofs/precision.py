"""In which precision a proof runs, and what it takes for rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from fxprune.state import deep_copy, place_of

__all__ = ["in_enough_precision", "precision_of", "tolerance_of", "widened"]

Module = TypeVar("Module", bound=nn.Module)


def precision_of(model: nn.Module) -> torch.dtype:
    """Float64 for a model that is in it, float32 for others: half precision tells a fault from rounding too late."""
    return torch.float64 if place_of(model)[1] is torch.float64 else torch.float32


def tolerance_of(dtype: torch.dtype) -> float:
    """What counts as rounding."""
    return 1e-9 if dtype is torch.float64 else 1e-4


def widened(module: Module, dtype: torch.dtype) -> Module:
    """A copy of a module in float32 or float64."""
    module = deep_copy(module)
    return module.double() if dtype is torch.float64 else module.float()


def in_enough_precision(prove: Callable[[torch.dtype], tuple[float, ...]], model: nn.Module) -> tuple[tuple[float, ...], float]:
    """The errors that ``prove(dtype)`` finds, and their tolerance: in float64 where they may be rounding in float32."""
    dtype = precision_of(model)
    errors, tolerance = prove(dtype), tolerance_of(dtype)
    if dtype is torch.float64 or all(e <= tolerance for e in errors):
        return errors, tolerance
    try:
        return prove(torch.float64), tolerance_of(torch.float64)
    except RuntimeError:  # the model's code names float32: what was found in it stands
        return errors, tolerance
