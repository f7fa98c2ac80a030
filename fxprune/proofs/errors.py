"""How far two outputs are apart."""

from __future__ import annotations

from typing import Any

import torch

from fxprune import nested

__all__ = ["relative_error"]


def relative_error(found: Any, expected: Any) -> float:
    """Largest difference of nested outputs, relative to the largest entry of each tensor of `expected`; never NaN.

    Entries that are not finite count by their place alone: where both are NaN or infinite (of either sign) there is no
    difference, and where one is and the other is not, it is infinite. So it is where shapes or numbers of tensors differ.

    >>> relative_error(torch.tensor([1.0, 2.5, torch.nan]), torch.tensor([1.0, 2.0, torch.inf]))
    0.25
    >>> relative_error(torch.tensor([torch.nan]), torch.tensor([1.0]))
    inf
    """
    a, b = nested.tensors(found), nested.tensors(expected)
    if len(a) != len(b):
        return float("inf")
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        x, y = x.detach().double(), y.detach().double()
        finite = y.isfinite()
        if x.shape != y.shape or not torch.equal(x.isfinite(), finite):
            return float("inf")
        if finite.any():
            x, y = x[finite], y[finite]
            worst = max(worst, float((x - y).abs().max() / y.abs().max().clamp_min(1e-30)))
    return worst
