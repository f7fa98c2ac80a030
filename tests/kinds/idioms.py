"""What libraries of models write, network by network as small as can be."""

from __future__ import annotations

import logging

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


def _warns(model: nn.Module, h: Tensor) -> Tensor:
    if 0 in h[:, [0, -1]] or h.isnan().any():  # a library warns of tokens that pad
        model.warned = True
    return h.relu()


def _warns_twice(model: nn.Module, h: Tensor) -> Tensor:
    for half in (h[:, :8], h[:, 8:]):
        if torch.all(half > 0):
            logging.getLogger(__name__).debug("nothing is cut off")
    return h.relu()


def _clamps(model: nn.Module, h: Tensor) -> Tensor:
    if not torch.isfinite(h).all():
        h = h.clamp(-1, 1)
    return h.relu()


def _raises(model: nn.Module, h: Tensor) -> Tensor:
    if h.isnan().any():
        raise ValueError("the input is not a number")
    return h.relu()


def _waits(model: nn.Module, h: Tensor) -> Tensor:
    while not (h > 0).all():
        h = h + 1
    return h


CASES = [
    Case("a branch on values that only notes something", net(_warns), rows),
    Case("two branches on values that only warn", net(_warns_twice), rows),
    Case("a branch on values that changes them", net(_clamps), rows, refused="depends on the values of the tensor"),
    Case("a branch on values that raises", net(_raises), rows, refused="depends on the values of the tensor"),
    Case("a loop until values are right", net(_waits), rows, refused="depends on the values of the tensor"),
    Case("requires_grad set on an input's copy in training", lambda: BeforeLayers(_wants_gradient), rows),
    Case("requires_grad_ in training alone", lambda: BeforeLayers(_wants_gradient_by_method), rows),
    Case("a flag that is asked whether it can be called", net(_checked), rows),
]
