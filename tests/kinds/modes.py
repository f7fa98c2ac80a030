"""Code that differs between train() and eval()."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case, net, rows

__all__ = ["CASES", "ONE_MODE"]


def _masks_by_rand(model: nn.Module, h: Tensor) -> Tensor:
    return h * (torch.rand(h.shape[0], 1) < 0.7) if model.training else h


def _masks_rows(model: nn.Module, h: Tensor) -> Tensor:
    if model.training:
        h = h.masked_fill(torch.rand(h.shape[:1]).unsqueeze(1) < 0.5, 0.0)
    return h.relu()


def _writes_in_training(model: nn.Module, h: Tensor) -> Tensor:
    h = h - 0.5
    if model.training:
        h.mul_(2)
        h += 1
    return h * 3


def _writes_in_evaluation(model: nn.Module, h: Tensor) -> Tensor:
    h = h - 0.5
    if not model.training:
        h *= 0.5
    return h


def _sets_items_in_training(model: nn.Module, h: Tensor) -> Tensor:
    h = h - 0.5
    if model.training:
        h[:1] = 0.25
    return h + 1


def _writes_then_reads_in_both(model: nn.Module, h: Tensor) -> Tensor:
    scaled = h * 2
    if model.training:
        scaled.clamp_(max=1.0)
    else:
        scaled.clamp_(min=-1.0)
    return scaled + h


def _another_operation(model: nn.Module, h: Tensor) -> Tensor:
    return F.gelu(h) if model.training else h.relu()


def _list_of_one_mode(model: nn.Module, h: Tensor) -> Tensor:
    maps = [h, h * 2] if model.training else [h, h]
    return torch.stack(maps).sum(0)


class Part(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale if self.training else x + 1


def _parts(model: Any, h: Tensor) -> Tensor:
    return model.two(model.one(h).relu())


def _reads_data_in_training(model: nn.Module, h: Tensor) -> Tensor:
    if model.training and h.sum().item() > 0:
        return h * 2
    return h.relu()


def _reads_data_in_evaluation(model: nn.Module, h: Tensor) -> Tensor:
    if not model.training and h.sum().item() > 0:
        return h * 2
    return h.relu()


def _mask_by_data(model: nn.Module, h: Tensor) -> Tensor:
    return h[h.sum(1) > 0] if model.training else h


def _spec_augment(model: nn.Module, h: Tensor) -> Tensor:
    if model.training:
        width = np.random.randint(1, 4)
        start = np.random.randint(0, 4)
        h = h.clone()
        h[:, start : start + width] = 0
    return h


def _python_random(model: nn.Module, h: Tensor) -> Tensor:
    return h * 2 if model.training and random.random() < 0.5 else h.relu()


def _stochastic_depth(model: nn.Module, h: Tensor) -> Tensor:
    if model.training and torch.rand(1).item() < 0.5:
        return h
    return h + h.relu()


def only(name: str, between: Any, why: str, mode: str = "evaluation") -> tuple[Case, str]:
    """A case of one mode, and why the other is refused."""
    return Case(name, net(between), rows, modes=(mode,)), why


ONE_MODE = [
    only("data in training", _reads_data_in_training, "reads values of a tensor"),
    only("data in evaluation", _reads_data_in_evaluation, "reads values of a tensor", "training"),
    only("rows by data in training", _mask_by_data, "depends on data"),
    only("spec augment by numpy", _spec_augment, "numpy"),
    only("random of Python in training", _python_random, "random"),
    only("stochastic depth by item", _stochastic_depth, "reads values of a tensor"),
]

CASES = [
    Case("masks by rand", net(_masks_by_rand), rows),
    Case("masks rows", net(_masks_rows), rows),
    Case("writes in training alone", net(_writes_in_training), rows),
    Case("writes in evaluation alone", net(_writes_in_evaluation), rows),
    Case("sets items in training alone", net(_sets_items_in_training), rows),
    Case("another write in each", net(_writes_then_reads_in_both), rows),
    Case("another operation in each", net(_another_operation), rows),
    Case("a list that differs", net(_list_of_one_mode), rows),
    Case("parts that ask", net(_parts, one=Part(2.0), two=Part(3.0)), rows),
    *(case for case, _ in ONE_MODE),
]
