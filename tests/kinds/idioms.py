"""What libraries of models write, network by network as small as can be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, Written, net, rows

__all__ = ["CASES"]


class BeforeLayers(Written):
    """What was written comes before the first layer, as `between(model, x)`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(self.between(self, x)).relu())


def _wants_gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x * 2
    if model.training:
        x.requires_grad = True  # so that checkpoints of the first layers have one
    return x


def _wants_gradient_by_method(model: nn.Module, x: Tensor) -> Tensor:
    made = torch.zeros_like(x, requires_grad=model.training)
    if model.training:
        made.requires_grad_(True)
    return x + made


def _checked(model: nn.Module, h: Tensor) -> Tensor:
    flag = h.shape[0] > 0
    if callable(flag):
        flag = flag()
    torch._check_with(ValueError, flag, lambda: "no samples")
    return h.relu()


CASES = [
    Case("requires_grad set on an input's copy in training", lambda: BeforeLayers(_wants_gradient), rows),
    Case("requires_grad_ in training alone", lambda: BeforeLayers(_wants_gradient_by_method), rows),
    Case("a flag that is asked whether it can be called", net(_checked), rows),
]
