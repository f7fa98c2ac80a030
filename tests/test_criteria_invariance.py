"""What must not change the scores of criteria on activations."""

from __future__ import annotations

import copy

import pytest
import torch
from support.activations import NAMES, Net, brute_force, data, scored
from torch import Tensor, nn


@pytest.mark.parametrize("name", NAMES)
def test_permuting_channels_permutes_scores(name: str) -> None:
    model, batches, order = Net().eval(), data(), torch.randperm(6)
    with torch.no_grad():
        model.norm.bias.normal_()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.first.weight.copy_(model.first.weight[order])
        other.first.bias.copy_(model.first.bias[order])
        other.norm.bias.copy_(model.norm.bias[order])
        other.second.weight.copy_(model.second.weight[:, order])
    expected = scored(name, model, batches)[order]
    assert scored(name, other, batches).tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["hrank", "sfm", "apoz", "aura_entropy", "aura_mi", "hist_mi", "gap_entropy", "hrel"])
def test_scaling_a_network_changes_nothing(name: str) -> None:
    """Ranks, shares and entropies of normalised maps do not see a positive factor (a power of 2, so that bins stay)."""
    model, batches = Net().eval(), data()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.norm.weight.mul_(4)
        other.norm.bias.mul_(4)
    assert scored(name, other, batches).tolist() == pytest.approx(scored(name, model, batches).tolist(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_dead_channels_are_scored_lowest_and_finite(name: str) -> None:
    model, batches = Net().eval(), data()
    with torch.no_grad():
        model.norm.weight[2] = 0
        model.norm.bias[2] = -1
    found = scored(name, model, batches, reduction="mean")
    assert torch.isfinite(found).all()
    assert float(found[2]) <= float(found.min()) + 1e-6
    if name not in ("aura_mi_layer", "hrel", "reconstruction"):
        assert float(found[2]) == pytest.approx(0, abs=1e-9)


def test_sites_of_one_group_are_reduced() -> None:
    class Residual(Net):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x)).relu()
            x = (x + self.inner(x)).relu()
            return self.head(self.second(x).relu().mean((2, 3)))

    model, batches = Residual().eval(), data()
    first, mean, whole = (scored("nuclear", model, batches, reduction=r) for r in ("first", "mean", "sum"))
    assert torch.allclose(first, torch.tensor(brute_force("nuclear", model, batches)).double(), rtol=1e-4)
    assert torch.allclose(whole, 2 * mean) and not torch.allclose(mean, first)
