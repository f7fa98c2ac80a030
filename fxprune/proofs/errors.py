"""How far two outputs are apart, and what still counts as rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fxprune import nested

__all__ = ["relative_error", "tolerance_of"]


def relative_error(found: Any, expected: Any) -> float:
    """Largest difference of nested outputs, relative to the largest entry of each tensor; NaN equals NaN."""
    a, b = nested.tensors(found), nested.tensors(expected)
    if len(a) != len(b):
        return float("inf")
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return float("inf")
        if not x.numel():
            continue
        x, y = x.detach().double(), y.detach().double()
        if not torch.equal(x.isfinite(), y.isfinite()):
            return float("inf")
        finite = y.isfinite()
        if finite.any():
            x, y = x[finite], y[finite]
            worst = max(worst, float((x - y).abs().max() / y.abs().max().clamp_min(1e-30)))
    return worst


def tolerance_of(model: nn.Module) -> float:
    """What counts as rounding: 1e-9 in float64, 1e-4 otherwise (half precision is checked in float32)."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return 1e-9 if dtype is torch.float64 else 1e-4
