"""Contexts that forward enters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, net, rows

__all__ = ["CASES"]


def _grad_enabled(model: nn.Module, h: Tensor) -> Tensor:
    with torch.enable_grad():
        return h.relu()


CASES = [
    Case("enable_grad", net(_grad_enabled), rows),
]
