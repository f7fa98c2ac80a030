"""Criteria on activations against their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.activations import CLASSES, Net, bits, brute_force, data, maps_of, scored
from torch import nn

from fxprune import criteria


@pytest.mark.parametrize(
    "name",
    ["apoz", "hrank", "nuclear", "gap_entropy", "sfm", "sfm_softmax", "chip", "aura_entropy", "aura_mi", "hist_mi"],
)
def test_against_the_formula(name: str) -> None:
    model, batches = Net().eval(), data()
    options: dict[str, Any] = {"corrected": False, "reduction": "mean"} if name in ("aura_mi", "hist_mi") else {}
    found = scored(name, model, batches, **options)
    assert found.tolist() == pytest.approx(brute_force(name, model, batches), rel=1e-4, abs=1e-6)


def test_wanda_is_weight_times_activation() -> None:
    model, batches = Net().eval(), data()
    norms = np.sqrt((maps_of(model, batches) ** 2).mean((0, 2, 3)))
    expected = model.second.weight.detach().abs().sum((0, 2, 3)).double().numpy() * norms
    assert scored("wanda", model, batches).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_wanda_of_a_flattened_map_weighs_each_position() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 4, 3))
    images = torch.randn(6, 1, 2, 2)
    maps = model[:3](images).detach().double()
    expected = (model[3].weight.detach().double().abs().sum(0) * maps.square().mean(0).sqrt()).view(2, 4).sum(1)
    assert scored("wanda", model, [(images, torch.zeros(6).long())]).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_hrel_against_its_definition() -> None:
    model, batches = Net().eval(), data()[:1]
    maps = maps_of(model, batches).reshape(5, 6, -1)
    labels = nn.functional.one_hot(batches[0][1], CLASSES).double().numpy()

    def squared(points: np.ndarray) -> np.ndarray:
        return ((points[:, None] - points[None]) ** 2).sum(-1)

    def entropy_of(kernel: np.ndarray) -> float:
        return bits(np.clip(np.linalg.eigvalsh(kernel / np.trace(kernel)), 1e-300, None))

    target = np.exp(-squared(labels) / 0.01)
    whole = squared(maps.reshape(5, -1))  # of the layer's output, not of its channels' mean
    grid = (np.sqrt(whole).mean() * np.linspace(0.1, 10, 300)) ** 2
    width = max(grid, key=lambda w: (np.exp(-whole / w) * target).sum() / np.linalg.norm(np.exp(-whole / w)))
    assert width > 2 * squared(maps[:, 0]).mean()  # a channel alone would have a much smaller one
    expected = []
    for c in range(6):
        kernel = np.exp(-squared(maps[:, c]) / width)
        expected.append(entropy_of(kernel) + entropy_of(target) - entropy_of(kernel * target))
    assert scored("hrel", model, batches).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_flat_map_says_nothing_to_the_softmax_entropy() -> None:
    """The channel of least score is constant, and goes first."""
    model, batches = Net().eval(), data()
    with torch.no_grad():
        model.norm.weight[2] = 0  # whatever its filter finds
    found = scored("sfm_softmax", model, batches)
    assert found.argmin() == 2 and float(found[2]) == 0 and float(found.sort().values[1]) > 0


@pytest.mark.parametrize("name", ["aura_mi", "hist_mi"])
def test_information_of_shared_channels_is_ranked_block_by_block(name: str) -> None:
    """Of these two alone: where a block's values are a thousand times larger, that block would decide."""
    made: Any = criteria.resolve(name)
    assert made.reduction == "rank" and criteria.resolve("sfm").reduction == criteria.resolve("hrank").reduction == "mean"  # type: ignore[attr-defined]
    quiet, loud = torch.tensor([3e-3, 2e-3, 1e-3, 0.0]), torch.tensor([1.0, 3.0, 2.0, 0.5])
    expected = torch.tensor([6.0, 7.0, 5.0, 2.0])
    assert torch.allclose(made.settle([quiet, loud]), expected.double() / 7)
