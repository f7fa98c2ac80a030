"""Grouped convolutions lose whole groups, or the same channels within every group: whichever is cheaper in saliency."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.proofs.randomize import randomize

X = torch.zeros(1, 3, 8, 8)


class Bottleneck(nn.Module):
    """1x1 -> grouped 3x3 (4 groups of 4 channels) -> 1x1, as in ResNeXt."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(3, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=groups)
        self.expand = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.expand(torch.relu(self.grouped(torch.relu(self.reduce(x)))))
        return found


def faint(channels: list[int]) -> Bottleneck:
    """A bottleneck in which these channels of every layer weigh next to nothing."""
    model = randomize(Bottleneck(), 0)
    with torch.no_grad():
        for layer in (model.reduce, model.grouped):
            layer.weight[channels] *= 1e-3
            layer.bias[channels] *= 1e-3  # type: ignore[index]
    return model.eval()


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_faint_groups_go_whole(scope: str) -> None:
    """Channels 0-3 and 8-11 are groups 0 and 2."""
    slim = fxprune.prune(faint([0, 1, 2, 3, 8, 9, 10, 11]), 0.5, X, scope=scope)
    assert slim.grouped.groups == 2 and slim.grouped.weight.shape[:2] == (8, 4)
    assert slim.meta["fxprune"].plan.kept["grouped.weight"] == {0: [4, 5, 6, 7, 12, 13, 14, 15]}


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_faint_channels_within_groups_go(scope: str) -> None:
    """Channels 1 and 2 of every group of four, on both sides of the convolution."""
    slim = fxprune.prune(faint([4 * g + c for g in range(4) for c in (1, 2)]), 0.5, X, scope=scope)
    assert slim.grouped.groups == 4 and slim.grouped.weight.shape[:2] == (8, 2)
    kept = slim.meta["fxprune"].plan.kept
    assert kept["grouped.weight"] == {0: [0, 3, 4, 7, 8, 11, 12, 15], 1: [0, 3]}
    assert kept["reduce.weight"] == {0: [0, 3, 4, 7, 8, 11, 12, 15]}


def test_the_plan_says_what_was_dearer() -> None:
    plan = fxprune.plan(faint([0, 1, 2, 3, 8, 9, 10, 11]), 0.5, X, scope="layer")
    spared = [g for g in plan.groups if "cheaper in saliency" in g.reason]
    assert len(spared) == 2  # the channels within groups, of the input and of the output
    assert all(len(g.kept) == g.size for g in spared)


def test_exclusive_groups_name_each_other() -> None:
    analysis = fxprune.analyze(faint([]), X)
    assert sorted(len(others) for others in analysis.exclusive.values()) == [1, 1, 2]
    for one, others in analysis.exclusive.items():
        assert all(one in analysis.exclusive[other] for other in others)


def test_a_factor_that_may_not_go_leaves_the_other() -> None:
    """The input of the convolution is the model's: its groups and its width stay, the width of the output may go."""
    model = randomize(nn.Sequential(nn.Conv2d(8, 16, 3, groups=4), nn.ReLU(), nn.Conv2d(16, 5, 1)), 0).eval()
    slim = fxprune.prune(model, 0.5, torch.zeros(1, 8, 8, 8))
    assert slim.get_submodule("0").groups == 4 and slim.get_submodule("0").weight.shape[:2] == (8, 2)


def test_both_factors_at_once_are_right() -> None:
    """The selection takes one kind; a plan by hand may take both."""
    model = randomize(Bottleneck(), 0).eval()
    plan = fxprune.plan(model, 0.5, X)
    analysis = fxprune.analyze(model, X)
    gone = {g.id: torch.arange(g.size // 2).numpy() for g in analysis.free}
    for group in plan.groups:
        group.kept = [c for c in range(group.size) if c not in set(gone.get(group.id, ()))]
    plan.kept = {n: {a: i.tolist() for a, i in axes.items()} for n, axes in analysis.cut(gone).tensors.items()}
    slim = fxprune.apply(model, plan)
    assert slim.grouped.groups == 2 and slim.grouped.weight.shape[:2] == (4, 2)
    assert fxprune.verify(model, slim, latency=False).masked_error <= 1e-6


class KernelPerSample(nn.Module):
    """Conditional convolution: each sample mixes its own kernel from experts, and one grouped convolution runs them all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.route = nn.Linear(8, 4)
        self.experts = nn.Parameter(torch.randn(4, 12 * 8 * 9))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        b, c, h, w = x.shape
        weight = torch.sigmoid(self.route(x.mean((2, 3)))) @ self.experts
        y = nn.functional.conv2d(x.reshape(1, b * c, h, w), weight.view(b * 12, 8, 3, 3), groups=b)
        y = y.permute(1, 0, 2, 3).view(b, 12, y.shape[2], y.shape[3])
        found: Tensor = self.head(torch.relu(y).mean((2, 3)))
        return found


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_groups_that_follow_the_batch_are_no_channels(batch: int) -> None:
    model = randomize(KernelPerSample(), 0).double().eval()
    x = torch.randn(batch, 3, 8, 8, dtype=torch.float64)
    slim = fxprune.prune(model, 0.5, x, scope="layer")
    assert not slim.meta["fxprune"].frozen_by_rewrite
    assert slim.stem.weight.shape[0] == 4 and slim.experts.shape == (2, 12 * 4 * 9)  # half of the experts go too
    assert fxprune.verify(model, slim, x, latency=False).masked_error <= 1e-12
    assert slim(torch.randn(5, 3, 8, 8, dtype=torch.float64)).shape == (5, 5)
