"""Writes through views: the tensor that they are views of is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case, net, rows

__all__ = ["CASES"]


def _linear() -> nn.Module:
    return nn.Linear(16, 16)


def _through(view: Callable[[Tensor], Tensor], write: Callable[[Tensor], Any] = lambda v: v.mul_(2.0)) -> Any:
    def between(m: Any, h: Tensor) -> Tensor:
        h = m.c(h) * 1
        write(view(h))
        return m.d(m.c(h))

    return net(between, c=_linear, d=_linear)


def _parts(cut: Callable[[Tensor], Any]) -> Any:
    def between(m: Any, h: Tensor) -> Tensor:
        h = m.c(h) * 1
        with torch.no_grad():  # autograd does not take writes into one of several views
            first, *_, last = cut(h)
            first.add_(1.0)
            last.mul_(-1.0)
        return m.c(h)

    return net(between, c=_linear)


def _both(m: Any, h: Tensor) -> Tensor:
    h = m.c(h) * 1
    even, odd = h[:, ::2], h[:, 1::2]
    even += odd
    odd.zero_()
    return m.d(m.c(h))


def _view_of_view(m: Any, h: Tensor) -> Tensor:
    h = m.c(h) * 1
    h.view(-1, 4, 4)[:, 1].transpose(0, 1)[2:].sub_(3.0)
    return m.c(h)


def _read_before(m: Any, h: Tensor) -> Tensor:
    h = m.c(h) * 1
    half = h[:, :8]
    h.mul_(2.0)
    return m.c(h) + F.pad(half, (0, 8))


def _not_a_view(m: Any, h: Tensor) -> Tensor:
    h = m.c(h)
    copy = h[:, torch.arange(0, 16, 2)]
    copy.mul_(2.0)
    return m.c(h) + F.pad(copy, (0, 8))


CASES = [
    Case("every second channel", _through(lambda h: h[:, ::2]), rows),
    Case("every third channel", _through(lambda h: h[:, 1::3]), rows),
    Case("the first half", _through(lambda h: h[:, :8]), rows),
    Case("one channel", _through(lambda h: h[:, 3]), rows),
    Case("narrow", _through(lambda h: h.narrow(1, 4, 8)), rows),
    Case("select", _through(lambda h: h.select(1, 2)), rows),
    Case("transpose", _through(lambda h: h.t()), rows),
    Case("T", _through(lambda h: h.T[:8]), rows),
    Case("view", _through(lambda h: h.view(-1, 4, 4)[:, :, 0]), rows),
    Case("unflatten", _through(lambda h: h.unflatten(1, (2, 8))[:, 1]), rows),
    Case("squeeze", _through(lambda h: h.unsqueeze(1)[:, 0, 2:]), rows),
    Case("diagonal", _through(lambda h: h.view(-1, 4, 4).diagonal(dim1=1, dim2=2)), rows),
    Case("as rows", _through(lambda h: h[0]), rows),
    Case("masked_fill_ on a slice", _through(lambda h: h[:, 8:], lambda v: v.masked_fill_(v < 0, 0.0)), rows),
    Case("assignment to a slice of a slice", _through(lambda h: h[:, 4:], lambda v: v.__setitem__((..., slice(2)), 1.0)), rows),
    Case("relu_ on a slice", _through(lambda h: h[:, ::2], F.relu_), rows),
    Case("chunk", _parts(lambda h: h.chunk(2, 1)), rows),
    Case("split", _parts(lambda h: h.split([4, 8, 4], 1)), rows),
    Case("unbind", _parts(lambda h: h.view(-1, 4, 4).unbind(1)), rows),
    Case("tensor_split", _parts(lambda h: h.tensor_split(3, 1)), rows),
    Case("two views of one tensor", net(_both, c=_linear, d=_linear), rows),
    Case("a view of a view", net(_view_of_view, c=_linear), rows),
    Case("a view read after its base is written", net(_read_before, c=_linear), rows),
    Case("a copy by indices is no view", net(_not_a_view, c=_linear), rows),
]
