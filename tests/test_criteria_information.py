"""Criteria of mutual information: what they see, and their bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.activations import informed
from torch import Tensor, nn

from fxprune import criteria


def textures(images: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    """White noise; noise that is smoother for half of the classes, with the same histogram; labels of 10 classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % 10
    noise = torch.randn(images, 16, 16, generator=generator)
    smooth = nn.functional.avg_pool2d(nn.functional.pad(noise[:, None], (1, 1, 1, 1), mode="circular"), 3, 1)[:, 0]
    smooth = (smooth - smooth.mean()) / smooth.std()
    return noise, torch.where((labels < 5)[:, None, None], smooth, noise), labels


def test_aura_mi_sees_texture_that_histograms_cannot() -> None:
    noise, textured, labels = textures()
    for view in (textured, textured.relu()):
        assert informed("aura_mi", view, labels) > 10 * abs(informed("hist_mi", view, labels))
        assert informed("aura_mi", view, labels) > 10 * abs(informed("aura_mi", noise, labels))
    assert informed("aura_entropy", textured, labels) < informed("aura_entropy", noise, labels)
    assert informed("aura_entropy", textured.relu(), labels) < informed("aura_entropy", textured, labels)


def test_noise_lowers_aura_mi() -> None:
    _, textured, labels = textures()
    noise = torch.randn(textured.shape, generator=torch.Generator().manual_seed(1))
    found = [informed("aura_mi", textured + s * noise, labels) for s in (0, 0.25, 0.5, 1.0)]
    assert found == sorted(found, reverse=True) and found[-1] > 0


@pytest.mark.parametrize("name", ["aura_mi", "hist_mi"])
@pytest.mark.parametrize("count", [4, 8, 16, 32])
def test_the_bias_is_that_of_shuffled_labels(name: str, count: int) -> None:
    noise, _, labels = textures(200)
    generator = torch.Generator().manual_seed(2)
    shuffled = [labels[torch.randperm(200, generator=generator)] for _ in range(12)]
    plain = np.mean([informed(name, noise, y, levels=count, corrected=False) for y in shuffled])
    left = np.mean([informed(name, noise, y, levels=count) for y in shuffled])
    assert plain > 0 and abs(left) < 0.15 * plain


def test_bias_grows_with_levels() -> None:
    noise, _, labels = textures()
    found = [informed("aura_mi", noise, labels, levels=q, corrected=False) for q in (4, 8, 16, 32)]
    assert found == sorted(found)


def test_independent_information_is_never_negative_before_correction() -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        values = torch.randn(30, 4, 4, generator=generator)
        labels = torch.randint(0, 4, (30,), generator=generator)
        for name in ("aura_mi", "hist_mi"):
            assert informed(name, values, labels, corrected=False) >= 0


def test_aura_mi_layer_sees_dependence() -> None:
    """Two linked channels share more than two unlinked ones."""
    made: Any = criteria.resolve("aura_mi_layer")
    one = torch.randint(0, 8, (400,))
    joint = torch.zeros(2, 1, 8, 8).double()
    for a, b, c in zip(one.tolist(), one.tolist(), torch.randint(0, 8, (400,)).tolist(), strict=True):
        joint[0, 0, a, b] += 1
        joint[1, 0, a, c] += 1
    linked, unlinked = made.measure({"joint": joint}).tolist()
    assert linked > 2.5 and unlinked < 0.1
