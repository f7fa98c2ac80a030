"""Writes into tensors: by methods, functions, ``out=``, assignment and through views."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case, net, rows

__all__ = ["CASES"]


def _linear() -> nn.Module:
    return nn.Linear(16, 16)


def _into_out(m: Any, h: Tensor) -> Tensor:
    o = torch.empty_like(h)
    with torch.no_grad():
        torch.mul(h, 2.0, out=o)
    return o + h


def _into_two_outs(m: Any, h: Tensor) -> Tensor:
    values, places = h.new_empty(h.shape[0]), torch.empty(h.shape[0], dtype=torch.long)
    with torch.no_grad():
        torch.max(h, 1, out=(values, places))
    return m.c(h) + values[:, None] + places[:, None]


def _data_assigned(m: Any, h: Tensor) -> Tensor:
    o = h * 1
    o.data = h.detach() * 3
    return o + h


def _data_written(m: Any, h: Tensor) -> Tensor:
    o = h * 1
    o.data.add_(h.detach())
    return o * 2


def _unused(m: Any, h: Tensor) -> Tensor:
    h = m.c(h) * 1
    h.mul_(2.0)
    torch.Tensor.add_(h, 1.0)
    torch.relu_(h)
    return h


def _functional(m: Any, h: Tensor) -> Tensor:
    h = m.c(h) * 1
    F.relu(h, inplace=True)
    h = h + 1
    F.dropout(h, 0.5, m.training, inplace=True)
    h = h - 1
    F.leaky_relu_(h, 0.1)
    return h


def _copied(m: Any, h: Tensor) -> Tensor:
    o = torch.zeros_like(h)
    o.copy_(m.c(h))
    return o + h


def _filled(m: Any, h: Tensor) -> Tensor:
    h = m.c(h) * 1
    h.masked_fill_(h < 0, 0.25)
    return h


def _masked_assigned(m: Any, h: Tensor) -> Tensor:
    h = m.c(h) * 1
    h[h < 0] = 0.0
    return h


def _indexed(m: Any, h: Tensor) -> Tensor:
    h = m.c(h) * 1
    h[..., 0] += 1
    h[:, 1:3] = 0.5
    h[None, :, 4] = 2.0
    h[:, torch.tensor([5, 6])] = -1.0
    return m.d(m.c(h))


def _index_added(m: Any, h: Tensor) -> Tensor:
    o = torch.zeros_like(h)
    o.index_add_(1, torch.tensor([0, 3]), h[:, :2])
    o.scatter_(1, torch.zeros(h.shape[0], 1, dtype=torch.long), 2.0)
    return m.d(m.c(o))


class Residual(nn.Module):
    """The activation overwrites what the skip reads."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.c, self.b, self.activation = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4), activation

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) * 1
        y = self.c(self.activation(h))
        return self.b(h + y)  # type: ignore[no-any-return]


class Inputs(nn.Module):
    """The caller's input is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        return self.b(self.a(x))  # type: ignore[no-any-return]


def _swapped(m: Any, h: Tensor) -> Tensor:
    h = m.c(h) * 1
    h += 1
    h *= h.sigmoid()
    h -= 0.5
    h /= 2
    h **= 2
    return h


def _clamped(m: Any, h: Tensor) -> Tensor:
    h = m.c(h) * 1
    y = h
    h.clamp_(min=0).sqrt_()
    return y + h


CASES = [
    Case("out=", net(_into_out), rows),
    Case("out= of two", net(_into_two_outs, c=lambda: nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))), rows),
    Case("data assigned", net(_data_assigned), rows, refused="data"),
    Case("data written", net(_data_written), rows),
    Case("results that nobody uses", net(_unused, c=_linear), rows),
    Case("functional in place", net(_functional, c=_linear), rows),
    Case("copy_", net(_copied, c=_linear), rows),
    Case("masked_fill_", net(_filled, c=_linear), rows),
    Case("assignment to a mask", net(_masked_assigned, c=_linear, d=_linear), rows),
    Case("assignment to indices", net(_indexed, c=_linear, d=_linear), rows),
    Case("index_add_ and scatter_", net(_index_added, c=_linear, d=_linear), rows),
    Case("ReLU in place before a skip", lambda: Residual(nn.ReLU(inplace=True)), rows),
    Case("SiLU in place before a skip", lambda: Residual(nn.SiLU(inplace=True)), rows),
    Case("Dropout in place before a skip", lambda: Residual(nn.Dropout(0.3, inplace=True)), rows),
    Case("the input", Inputs, rows),
    Case("augmented", net(_swapped, c=_linear), rows),
    Case("a chain in place", net(_clamped, c=_linear), rows),
]
