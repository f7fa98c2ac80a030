"""Code in C that takes what forward gives it for tensors."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, net, rows

__all__ = ["CASES"]


def _shown(model: nn.Module, h: Tensor) -> Tensor:
    assert h.dim() == 2, f"{h} of shape {h.shape} and {h.dtype}"
    return f"{h!r}" and h


def _tagged(model: nn.Module, h: Tensor) -> Tensor:
    h.tag = h.relu()
    return h.tag


def _filled(model: nn.Module, h: Tensor) -> Tensor:
    made = torch.zeros(16)
    made[3] = 1
    made += h.mean(0)
    return model.c(h + made)


def _set(model: nn.Module, h: Tensor) -> Tensor:
    made = torch.zeros(2, 8)
    made[0, 3:5] = h.mean(0)[3:5]
    return model.c(h + made.flatten() * 2)


def _placed(model: nn.Module, h: Tensor) -> Tensor:
    assert h.is_cpu and not h.is_cuda and h.get_device() == -1
    return h.relu() if h.device.type == "cpu" and h.type().endswith("FloatTensor") else h


CASES = [
    Case("a tensor of numbers added to", net(_filled, c=lambda: nn.Linear(16, 16)), rows),
    Case("a tensor of numbers set", net(_set, c=lambda: nn.Linear(16, 16)), rows),
    Case("where it is", net(_placed), rows),
    Case("pow with a number", net(lambda m, h: torch.pow(h.abs() + 1, 3.0)), rows),
    Case("where with a number", net(lambda m, h: torch.where(h > 0, h, 0.0)), rows),
    Case("remainder with a number", net(lambda m, h: torch.remainder(h, 2)), rows),
    Case("a function of the class of tensors", net(lambda m, h: torch.Tensor.add(h, torch.Tensor.relu(h))), rows),
    Case("all by keyword", net(lambda m, h: torch.add(input=h, other=h, alpha=2)), rows),
    Case("torch.ops, a packet", net(lambda m, h: torch.ops.aten.relu(h)), rows),
    Case("torch.ops, an overload", net(lambda m, h: torch.ops.aten.relu.default(h)), rows),
    Case("a private function", net(lambda m, h: torch._C._nn.gelu(h)), rows),
    Case("in a list", net(lambda m, h: h.relu() if h in [h] else h), rows),
    Case("a key of a dict", net(lambda m, h: {h: h.relu()}[h]), rows),
    Case("an attribute of its own", net(_tagged), rows),
    Case("shown as text", net(_shown), rows),
    Case("special methods by name", net(lambda m, h: h.__add__(h).__getitem__(slice(None))), rows),
    Case("copied", net(lambda m, h: h + copy.copy(h)), rows),
    Case("numpy", net(lambda m, h: torch.from_numpy(h.detach().numpy())), rows, refused=r"reads values .* \.numpy\(\)"),
    Case("tolist", net(lambda m, h: h * h.tolist()[0][0]), rows, refused=r"\.tolist\(\)"),
    Case("data_ptr", net(lambda m, h: h if h.data_ptr() else -h), rows, refused=r"\.data_ptr\(\)"),
    Case("float", net(lambda m, h: h * float(h.sum())), rows, refused="path depends on the values"),
    Case("a tensor made in C", net(lambda m, h: torch.Tensor(h)), rows),
]
