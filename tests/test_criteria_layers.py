"""Criteria that compare the channels of one layer, or draw them."""

from __future__ import annotations

import pytest
import torch
from support.weights import one_member, scores
from torch import nn

import fxprune
from fxprune import criteria


def test_lamp_of_equal_channels_is_shared() -> None:
    assert scores("lamp", torch.tensor([[1.0], [1.0], [2.0]])).tolist() == pytest.approx([1 / 6, 1 / 6, 1.0])


def test_cpmc_counts_what_goes() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    analysis = fxprune.analyze(model, torch.randn(1, 3))
    tensors = dict(model.named_parameters())
    made = criteria.resolve("cpmc", parameters=2.0, macs=3.0)
    criteria.prepare(made, model, analysis)
    w = [model[i].weight.detach().double().abs() for i in (0, 2, 4)]
    b = [model[i].bias.detach().double().abs() for i in (0, 2)]
    magnitudes = [w[0].sum(1) + b[0] + w[1].sum(0), w[1].sum(1) + b[1] + w[2].sum(0)]
    params, macs = [3 + 1 + 5, 4 + 1 + 2], [3 + 5, 4 + 2]
    top = max(float(m.max()) for m in magnitudes)
    for group, magnitude, p, m in zip(analysis.free, magnitudes, params, macs, strict=True):
        expected = magnitude / top / (2 * p / max(params) + 3 * m / max(macs))
        assert made(group, tensors).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_cpmc_weighs_what_it_counts() -> None:
    """A channel that differs from another in its bias alone has more weight for the same parameters."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.PReLU(2), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
        model[0].bias[1] = 2.0
    analysis = fxprune.analyze(model, torch.randn(1, 1, 4, 4))
    made = criteria.resolve("cpmc")
    criteria.prepare(made, model, analysis)
    low, high = made(analysis.free[0], dict(model.named_parameters()) | dict(model.named_buffers())).tolist()
    assert high / low == pytest.approx((2.0 + 5 * 0.5) / (6 * 0.5))  # weight, bias, slope, scale, shift, consumer


def test_cpmc_adds_scale_and_shift_of_norms() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    analysis = fxprune.analyze(model, torch.randn(1, 3, 4, 4))
    made = criteria.resolve("cpmc", normalization="max")
    criteria.prepare(made, model, analysis)
    found = made(analysis.free[0], dict(model.named_parameters()) | dict(model.named_buffers()))
    total = model[0].weight.abs().sum((1, 2, 3)) + model[3].weight.abs().sum((0, 2, 3))
    total = total + model[1].weight.abs() + model[1].bias.abs()  # and no running statistics
    assert found.tolist() == pytest.approx((total / total.max()).tolist(), rel=1e-6)


def test_random_depends_on_the_seed_and_the_group_alone() -> None:
    group, tensors = one_member(torch.randn(5, 2))
    one, same, other = (criteria.resolve("random", seed=s)(group, tensors) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
