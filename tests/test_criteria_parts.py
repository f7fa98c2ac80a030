"""What criteria on activations are made of."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from support.activations import Net, data, informed, scored, site
from torch import nn

from fxprune.criteria.aura import aura_matrices, neighbourhood
from fxprune.criteria.entropy import counted, entropy, levels
from fxprune.criteria.reconstruction import _convolved, greedy_order
from fxprune.statistics import Maps


def test_levels_and_entropy() -> None:
    values = torch.tensor([-5.0, 0.0, 0.24, 0.25, 0.99, 1.0, 9.0])
    assert levels(values, torch.tensor(0.0), torch.tensor(1.0), 4).tolist() == [0, 0, 0, 1, 3, 3, 3]
    assert levels(torch.full((3,), 2.0), torch.tensor(2.0), torch.tensor(2.0), 4).tolist() == [0, 0, 0]
    assert entropy(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])).tolist() == [2.0, 0.0, 0.0]
    assert counted(torch.tensor([[0, 2, 2], [1, 1, 1]]), 3).tolist() == [[1, 0, 2], [0, 3, 0]]


@pytest.mark.parametrize(("neighbours", "radius", "half"), [(4, 1, 2), (8, 1, 4), (4, 2, 6), (8, 2, 12)])
def test_neighbourhoods(neighbours: int, radius: int, half: int) -> None:
    offsets = neighbourhood(neighbours, radius)
    assert len(offsets) == half == len({*offsets, *((-y, -x) for y, x in offsets)}) // 2


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("radius", [1, 2])
def test_aura_matrix_against_its_definition(neighbours: int, radius: int) -> None:
    quantised = torch.randint(0, 3, (2, 2, 1, 4, 5))
    found = aura_matrices(quantised, 3, neighbourhood(neighbours, radius))
    for image in range(2):
        for channel in range(2):
            levels_of, matrix = quantised[image, channel, 0], torch.zeros(3, 3).double()
            for y, x in np.ndindex(4, 5):
                for v, u in np.ndindex(4, 5):
                    dy, dx = abs(y - v), abs(x - u)
                    near = max(dy, dx) <= radius if neighbours == 8 else dy + dx <= radius
                    if near and (dy or dx):
                        matrix[levels_of[y, x], levels_of[v, u]] += 1
            assert found[image, channel].tolist() == pytest.approx((matrix / matrix.sum()).ravel().tolist())


def test_maps_without_neighbours_use_their_histogram(caplog: pytest.LogCaptureFixture) -> None:
    values, labels = torch.arange(8.0)[:, None, None], torch.arange(8) % 2
    with caplog.at_level(logging.WARNING, "fxprune"):
        found = informed("aura_mi", values, labels, corrected=False)
    assert found == pytest.approx(informed("hist_mi", values, labels, corrected=False)) == pytest.approx(1.0)
    assert "no neighbours" in caplog.text


def test_greedy_removal_keeps_the_error_least() -> None:
    terms = torch.randn(50, 6).double()
    products = terms.T @ terms
    gone: list[int] = []
    for channel in greedy_order(products).tolist():
        errors = {c: float(terms[:, [*gone, c]].sum(1).square().sum()) for c in range(6) if c not in gone}
        assert channel == min(errors, key=errors.__getitem__)
        gone.append(channel)
    assert sorted(gone) == list(range(6))


@pytest.mark.parametrize(
    "consumer",
    [
        nn.Conv2d(4, 3, 3, stride=2, padding=1, dilation=1, bias=False),
        nn.Conv2d(4, 3, (1, 3), padding="same", bias=False),
    ],
)
def test_terms_of_a_convolution_add_up_to_its_output(consumer: nn.Conv2d) -> None:
    values = torch.randn(2, 4, 1, 7, 8)
    weight = consumer.weight.detach().transpose(0, 1).flatten(2)
    output = consumer(values[:, :, 0]).detach().flatten(1).T
    for _ in range(10):
        generator = torch.Generator().manual_seed(int(torch.randint(1000, ())))
        terms = _convolved(Maps(values, site(4), weight=weight, module=consumer), generator)
        assert (output - terms.sum(1)).abs().amax(1).min() < 1e-5


def test_reconstruction_keeps_what_the_next_layer_needs() -> None:
    model, batches = Net().eval(), data()
    with torch.no_grad():
        model.second.weight[:, 4] = 0
        model.second.weight[:, 1] *= 100
    found = scored("reconstruction", model, batches)
    assert int(found.argmin()) == 4 and int(found.argmax()) == 1
    assert sorted(found.tolist()) == pytest.approx([(i + 1) / 6 for i in range(6)])
