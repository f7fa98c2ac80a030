"""For which numbers of samples a recording holds: what it refuses, and what it says of that."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.kinds.base import net

Between = Callable[[nn.Module, Tensor], Tensor]


def _one_apart(model: nn.Module, h: Tensor) -> Tensor:
    return h.relu() * 2 if h.shape[0] == 1 else h.tanh()


def _three_apart(model: nn.Module, h: Tensor) -> Tensor:
    return h * (2 if h.shape[0] in (1, 2) else 3)


def _loop(model: nn.Module, h: Tensor) -> Tensor:
    return torch.stack([row.relu() for row in h])


def _asked_twice(model: nn.Module, h: Tensor) -> Tensor:
    row = model.a.bias.unsqueeze(0)
    one = row.expand(h.shape[0], -1) if h.shape[0] != 1 else row
    other = row.expand(len(h), -1) if h.relu().size(0) > 1 else row
    return h * one + other


def taken(between: Between, batch: int, others: tuple[int, ...] = (1, 2, 3, 4)) -> list[int]:
    """The numbers of samples, of several, that a recording takes; of those, it does what the model does."""
    model = net(between)()
    recorded, found = fxprune.trace(model, (torch.randn(batch, 8),)), []
    for n in others:
        x = torch.randn(n, 8)
        try:
            output = recorded(x)
        except AssertionError:
            continue
        torch.testing.assert_close(output, model(x))
        found.append(n)
    return found


@pytest.mark.parametrize(
    ("between", "batch", "numbers"),
    [
        (_one_apart, 1, [1]),
        (_one_apart, 2, [2, 3, 4]),
        (_one_apart, 4, [2, 3, 4]),
        (_three_apart, 1, [1]),
        (_three_apart, 2, [2]),
        (_three_apart, 3, [3, 4]),
        (_loop, 3, [3]),
        (_asked_twice, 1, [1, 2, 3, 4]),
        (_asked_twice, 3, [1, 2, 3, 4]),
    ],
)
def test_a_recording_takes_the_numbers_of_samples_for_which_it_holds(between: Between, batch: int, numbers: list[int]) -> None:
    assert taken(between, batch) == numbers


@pytest.mark.parametrize(
    ("between", "batch", "said"),
    [
        (_one_apart, 1, r"stays at 1.* \(eq\(a.size\(0\), 1\) == False at .*py:\d+\); record those with an example of several"),
        (_one_apart, 4, r"only numbers of samples are taken for which eq\(a.size\(0\), 1\) == False at .*py:\d+"),
        (_loop, 3, r"only numbers of samples are taken for which a.size\(0\) == 3 at .*py:\d+"),
    ],
)
def test_the_report_says_for_which(between: Between, batch: int, said: str) -> None:
    slim = fxprune.prune(net(between)(), 0.5, (torch.randn(batch, 8),))
    (note,) = slim.meta["fxprune"].notes
    assert re.search(said, note), note
