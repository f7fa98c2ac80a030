"""slice-tensors: parameters and buffers lose the entries that go."""

from __future__ import annotations

import pytest
import torch
from passes_support import assert_rewrites, prepared, tensors_of
from torch import Tensor, nn

import fxprune
from fxprune.passes import pass_of
from fxprune.passes.base import run_passes

X = torch.zeros(2, 3, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)))


BEFORE = """
    conv.weight: [4, 3, 1, 1]
    conv.bias: [4]
    norm.weight: [4]
    norm.bias: [4]
    head.weight: [2, 4, 1, 1]
    head.bias: [2]
    norm.running_mean: [4]
    norm.running_var: [4]
"""
AFTER = """
    conv.weight: [2, 3, 1, 1]
    conv.bias: [2]
    norm.weight: [2]
    norm.bias: [2]
    head.weight: [2, 2, 1, 1]
    head.bias: [2]
    norm.running_mean: [2]
    norm.running_var: [2]
"""


def test_every_member_of_a_group_is_sliced() -> None:
    counters = {"tensors sliced": 7, "entries removed": 2 * 3 + 2 * 5 + 2 * 2}
    assert_rewrites("slice-tensors", Net(), (X,), {"conv.weight": [1, 2]}, (BEFORE, AFTER), counters, tensors_of)


def test_nothing_goes_where_nothing_is_chosen() -> None:
    assert_rewrites("slice-tensors", Net(), (X,), {}, (BEFORE, BEFORE), {}, tensors_of)


def test_frozen_parameters_stay_frozen_and_tied_ones_tied() -> None:
    model = Net()
    model.conv.weight.requires_grad_(False)
    model.norm.bias = model.norm.weight
    module, _ = prepared(model, (X,), {"conv.weight": [0]}, "resize-leaves")
    assert not module.conv.weight.requires_grad and module.conv.bias.requires_grad
    assert module.norm.bias is module.norm.weight


def test_a_model_that_is_sliced_already_is_refused() -> None:
    module, context = prepared(Net(), (X,), {"conv.weight": [0]}, "resize-leaves")
    with pytest.raises(fxprune.PruneError, match=r"pass slice-tensors: the model is sliced already"):
        run_passes(module, [pass_of("slice-tensors")], context)
