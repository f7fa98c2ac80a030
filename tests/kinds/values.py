"""Values in forward that are no tensors, and tensors that are no parameters and no buffers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case, images, net, rows

__all__ = ["CASES"]


class Tables(nn.Module):
    """Tensors as plain attributes, alone, in a list and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.table = torch.arange(160.0).view(10, 16) / 160
        self.strides = [torch.tensor([4.0, 8.0]), torch.tensor([16.0])]
        self.scales = {"low": torch.tensor(0.5), "high": (torch.tensor(2.0), 3)}
        self.order = torch.arange(16).flip(0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        y = self.b(h) + self.table[: x.shape[0]] + self.table.mean(0, keepdim=True)
        y = y[:, self.order] * self.scales["low"] + self.scales["high"][0] * self.scales["high"][1]
        return self.c(y) * torch.cat(self.strides).sum()


class Cached(nn.Module):
    """Keeps in forward what it made of the first input's length."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.steps = torch.zeros(0)
        self.seen: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.steps = torch.arange(8.0, device=x.device, dtype=x.dtype)
        self.seen = h = self.a(x + self.steps).relu()
        return self.b(h) if self.training else self.b(h) * 1


class Anchors(nn.Module):
    """Offsets of the cells of a map, with a stride each, as detectors make them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 1)
        self.stride = torch.tensor([2.0, 4.0])

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu())
        h, w = y.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(h).to(y), torch.arange(w).to(y), indexing="ij")
        points = torch.stack((rows, columns), -1).view(-1, 2) + 0.5
        scales = y.new_full((h * w, 1), self.stride[0])
        return y.flatten(2).transpose(1, 2)[..., :2] + points * scales


class Borrowed(nn.Module):
    """Parameters in a plain list, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 4)
        self.weights = [self.c.weight, self.c.bias]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.b(self.a(x).relu()) + x, self.weights[0].mul(2), self.weights[1])


class State:
    """An object that carries tensors from part to part."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden, self.steps = hidden, [hidden]

    def push(self, hidden: Tensor) -> None:
        self.steps.append(hidden)
        self.hidden = self.hidden + hidden


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = State(self.a(x))
        self.step(state)
        return self.c(state.hidden + sum(state.steps))

    def step(self, state: State) -> None:
        state.push(self.b(state.hidden.relu()))


def _masked(model: nn.Module, h: Tensor) -> Tensor:
    return h.masked_fill(h > 0, torch.finfo(h.dtype).min).clamp(min=-5)


def _least(model: nn.Module, h: Tensor) -> Tensor:
    info = torch.finfo(h.dtype)
    return h + torch.full_like(h, info.eps * 4) * (info.bits / 8)


def _most(model: nn.Module, h: Tensor) -> Tensor:
    return h * (h.long().clamp(max=torch.iinfo(torch.int64).max) >= torch.iinfo(h.long().dtype).min)


CASES = [
    Case("plain tensors", Tables, rows),
    Case("an attribute set in forward", Cached, rows),
    Case("anchors with a stride", Anchors, images),
    Case("parameters in a list", Borrowed, rows),
    Case("an object between parts", Stateful, rows),
    Case("limits of a dtype", net(_masked), rows),
    Case("several limits", net(_least), rows),
    Case("limits of integers", net(_most), rows),
    Case("new_full of a tensor", net(lambda m, h: h + h.new_full((1, 1), torch.tensor(2.0))), rows),
    Case("full of a tensor", net(lambda m, h: h + torch.full((1, 1), h.detach().mean())), rows),
    Case("full_like of a tensor", net(lambda m, h: h + torch.full_like(h, m.c), c=torch.tensor(3.0)), rows),
    Case("new_tensor", net(lambda m, h: h * h.new_tensor([2.0])), rows),
    Case("a number of numpy", net(lambda m, h: h * torch.ones(1).numpy()[0]), rows),
    Case("a dtype as a key", net(lambda m, h: h * {torch.float32: 2}[h.dtype]), rows),
    Case("a device as a key", net(lambda m, h: h * {torch.device("cpu"): 2}.get(h.device, 2)), rows),
    Case("arguments in a dict", net(lambda m, h: F.gelu(**{"input": h, "approximate": "tanh"})), rows),
    Case("zeros_like of a size", net(lambda m, h: h + torch.zeros(h.shape, dtype=h.dtype, device=h.device)), rows),
]
