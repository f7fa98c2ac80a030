"""drop-unused: nodes that nothing needs go, and the constants that only they read."""

from __future__ import annotations

import pytest
import torch
from passes_support import assert_rewrites, forward_of, prepared
from torch import Tensor, nn

import fxprune
from fxprune.passes import pass_of
from fxprune.passes.base import run_passes

X = torch.zeros(2, 3, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.head(y.flatten(0, 1).reshape(x.shape[0] * 8, 1, 4, 4).reshape(x.shape[0], 8, 4, 4))


def test_size_arithmetic_that_was_replaced_goes() -> None:
    before = """
        conv = self.conv(x)
        flatten = conv.flatten(0, 1)
        size = x.size(0)
        mul = size * 8
        mul_1 = size * 6
        reshape = flatten.reshape(mul_1, 1, 4, 4)
        reshape_1 = reshape.reshape(size, 6, 4, 4)
        head = self.head(reshape_1)
        return head
    """
    after = before.replace("        mul = size * 8\n", "")
    gone, counters = {"conv.weight": [1, 2]}, {"nodes removed": 1}
    assert_rewrites("drop-unused", Net(), (X,), gone, (before, after), counters, forward_of)


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.conv(x))
        return y if x.shape[2] > 2 else y + 1


def test_assertions_stay() -> None:
    module, context = prepared(Branching(), (X,), {"conv.weight": [0]}, "drop-unused")
    run_passes(module, [pass_of("drop-unused")], context)
    assert "torch._assert(gt" in forward_of(module)


def test_a_constant_that_is_gone_but_still_listed_is_refused() -> None:
    module, context = prepared(Net(), (X,), {"conv.weight": [0]}, "drop-unused")
    context.constants["_lost"] = torch.zeros(2)
    with pytest.raises(fxprune.PruneError, match=r"pass drop-unused: the constant '_lost' is still listed"):
        run_passes(module, [pass_of("drop-unused")], context)
