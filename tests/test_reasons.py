"""What the report says of channels that stay because others need them: by name, in words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxprune


class Skip(nn.Module):
    """Two convolutions, joined and normed in groups."""

    def __init__(self, groups: int, one: int, other: int) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, one, 1), nn.Conv2d(3, other, 1)
        self.norm, self.last = nn.GroupNorm(groups, one + other), nn.Conv2d(one + other, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.cat([self.one(x), self.other(x)], 1)))


class Recurrent(nn.Module):
    """A recurrent layer, with a first state and a skip."""

    def __init__(self, kind: Callable[..., nn.Module], cells: int) -> None:
        super().__init__()
        self.a, self.state, self.cells = nn.Linear(8, 6), nn.Linear(8, 6), cells
        self.rnn, self.b = kind(6, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, state = self.a(x), self.state(x[:, 0]).unsqueeze(0)
        return self.b(h + self.rnn(h, (state, state) if self.cells == 2 else state)[0])


def reasons(model: nn.Module, layer: str, *size: int) -> str:
    return " | ".join(part[4] for part in fxprune.why(model, layer, (torch.randn(*size),)).parts)


def test_a_norm_of_groups_over_joined_tensors_says_what_it_binds() -> None:
    said = reasons(Skip(4, 8, 4), "one", 2, 3, 4, 4)
    assert "group_norm of 4 groups of 3 channels (at node norm" in said
    assert "binds channels of one.weight (2) and other.weight (1) into one" in said


def test_channels_on_both_sides_of_a_border_are_one() -> None:
    said = reasons(Skip(8, 9, 7), "other", 2, 3, 4, 4)
    assert "group_norm of 8 groups of 2 channels" in said and "one.weight (1) and other.weight (1)" in said


def test_one_channel_that_nothing_binds_is_a_single_channel() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.Conv2d(1, 4, 1))
    assert "binds" not in reasons(model, "0", 2, 3, 4, 4)


@pytest.mark.parametrize(("kind", "cells"), [(nn.LSTM, 2), (nn.GRU, 1), (nn.RNN, 1)])
def test_a_recurrent_layer_says_why_its_state_stays(kind: Callable[..., nn.Module], cells: int) -> None:
    model = Recurrent(kind, cells)
    for layer in ("rnn", "state", "a"):  # its own parameters, the first state, what is added to its output
        said = reasons(model, layer, 2, 5, 8)
        assert "hidden state of a recurrent layer: each step feeds all of it back into every gate (at node rnn" in said, layer
