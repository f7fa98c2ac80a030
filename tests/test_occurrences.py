"""Which channels may change places: those whose labels have one colour. Coarse colours alarm, and never hide a fault."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis.analysis import Analysis
from fxprune.proofs import occurrences
from fxprune.proofs.occurrences import Occurrences
from fxprune.proofs.permutation import permutation_error
from fxprune.proofs.randomize import randomize
from fxprune.proofs.refinement import Messages, first_colors, mix, refined

X = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SEEDS = range(4)


class Twisted(nn.Module):
    """Two copies of every channel, and at the end the two of even channels meet, but those of odd ones do not.

    Only the concatenation, `depth` additions away from there, says which copy is which.
    """

    def __init__(self, depth: int, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 1)
        self.chain = nn.ModuleList(nn.Conv2d(3, 2 * width, 1) for _ in range(depth))
        self.last = nn.Conv2d(2 * width, 5, 1)
        order, even = torch.arange(2 * width), torch.arange(0, width, 2)
        order[even], order[width + even] = width + even, even
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = torch.cat([y, y], 1)
        for layer in self.chain:
            y = layer(x) + y.tanh()
        found: Tensor = self.last(y + y[:, self.order].sigmoid())
        return found


class Mirrored(nn.Module):
    """Channels i and 7 - i are one; in the second layer, which of them comes first differs from channel to channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.register_buffer("order", torch.tensor([0, 6, 2, 4, 3, 5, 1, 7]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y + y.flip(1).tanh()
        found: Tensor = self.last(y[:, self.order] * self.b(x))
        return found


def analyzed(model: nn.Module) -> tuple[nn.Module, Analysis]:
    model = randomize(model).double()
    return model, fxprune.analyze(model, X)


def worst(analysis: Analysis, model: nn.Module) -> float:
    return max(permutation_error(analysis, model, seed) for seed in SEEDS)


def stopped_after(rounds: int) -> Callable[[Messages, np.ndarray], np.ndarray]:
    def stopped(messages: Messages, colors: np.ndarray) -> np.ndarray:
        for _ in range(rounds):
            colors = messages.exchanged(colors)
        return colors

    return stopped


def unsettled(monkeypatch: pytest.MonkeyPatch, rounds: int | None, choose: bool) -> None:
    """Stop refinement early, and leave copies that mirror each other as they are."""
    if rounds is not None:
        monkeypatch.setattr(occurrences, "refined", stopped_after(rounds))
    if not choose:
        monkeypatch.setattr(Occurrences, "_choose", lambda self: False)


@pytest.mark.parametrize("depth", [0, 1, 3, 70])
def test_channels_change_places_with_those_that_play_the_same_part(depth: int) -> None:
    model, analysis = analyzed(Twisted(depth))
    (group,) = analysis.free
    parts = sorted(part.tolist() for part in Occurrences(analysis).parts(group))
    assert parts == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert worst(analysis, model) < 1e-9


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 4])
def test_refinement_that_stops_early_is_a_false_alarm(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says which copy is which is five messages away."""
    model, analysis = analyzed(Twisted(3))
    unsettled(monkeypatch, rounds, choose=True)
    assert [len(part) for part in Occurrences(analysis).parts(analysis.free[0])] == [8]
    assert worst(analysis, model) > 1e-3


def test_copies_that_mirror_each_other_get_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model, analysis = analyzed(Mirrored())
    assert worst(analysis, model) < 1e-9
    unsettled(monkeypatch, None, choose=False)
    assert worst(analysis, model) > 1e-3  # a false alarm: the groups are right


NETWORKS: dict[str, Callable[[], nn.Module]] = {"twisted": lambda: Twisted(3), "mirrored": Mirrored}


@pytest.mark.parametrize("choose", [True, False])
@pytest.mark.parametrize("rounds", [None, 0, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_wrong_group_is_seen_however_early_refinement_stops(
    name: str, rounds: int | None, choose: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, analysis = analyzed(NETWORKS[name]())
    (group,) = analysis.free
    unsettled(monkeypatch, rounds, choose)
    for number, member in enumerate(group.members):
        shifted = dataclasses.replace(member, indices=np.roll(member.indices, 1, axis=0))
        for other in ((), (shifted,)):  # the member is forgotten, or coupled with the next channel
            members = (*group.members[:number], *other, *group.members[number + 1 :])
            wrong = dataclasses.replace(analysis, groups=[dataclasses.replace(group, members=members)])
            assert any(permutation_error(wrong, model, seed) > 1e-3 for seed in SEEDS), f"nothing is seen of {member.name}"


@pytest.mark.parametrize("name", NETWORKS)
def test_rounds_only_part_labels_and_end_when_they_part_no_more(name: str) -> None:
    _, analysis = analyzed(NETWORKS[name]())
    messages = Messages.of(analysis.traced.mode.store)
    colors, counts = first_colors(analysis), []
    for _ in range(12):
        new = messages.exchanged(colors)
        together = new[:, None] == new[None, :]
        assert (colors[:, None] == colors[None, :])[together].all()
        counts.append(len(np.unique(colors)))
        colors = new
    assert counts == sorted(counts) and counts[-1] == counts[-2]
    assert len(np.unique(refined(messages, first_colors(analysis)))) == counts[-1]


def test_the_order_of_facts_and_labels_does_not_count() -> None:
    """Labels of channels with one part have one colour; the hash itself keeps all small numbers apart."""
    _, analysis = analyzed(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1)))
    found: Any = Occurrences(analysis)
    assert [len(part) for part in found.parts(analysis.free[0])] == [8]
    assert len(np.unique(mix(np.arange(100_000)))) == 100_000
