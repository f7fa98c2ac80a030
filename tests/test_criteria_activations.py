"""Criteria on activations against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.activations import CLASSES, Net, bits, brute_force, data, maps_of, scored
from torch import nn


@pytest.mark.parametrize(
    "name",
    ["apoz", "hrank", "nuclear", "gap_entropy", "sfm", "sfm_softmax", "chip", "aura_entropy", "aura_mi", "hist_mi"],
)
def test_against_the_formula(name: str) -> None:
    model, batches = Net().eval(), data()
    options = {"corrected": False} if name in ("aura_mi", "hist_mi") else {}
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
    mean = np.mean([squared(maps[:, c]) for c in range(6)], 0)
    grid = [mean.mean() * 10 ** (2 * e) for e in np.linspace(-1, 1, 9)]
    width = max(grid, key=lambda w: (np.exp(-mean / w) * target).sum() / np.linalg.norm(np.exp(-mean / w)))
    expected = []
    for c in range(6):
        kernel = np.exp(-squared(maps[:, c]) / width)
        expected.append(entropy_of(kernel) + entropy_of(target) - entropy_of(kernel * target))
    assert scored("hrel", model, batches).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
