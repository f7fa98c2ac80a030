"""Criteria that use gradients: against autograd by hand, and what must stay as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fxprune
from fxprune import criteria
from fxprune.errors import InputError
from fxprune.statistics import gather


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


def data() -> list[tuple[Tensor, Tensor]]:
    images, labels = torch.randn(7, 2, 5, 5), torch.randint(0, 3, (7,))
    return [(images[:4], labels[:4]), (images[4:], labels[4:])]


def scored(name: str, model: nn.Module, batches: Any, loss: Any = None, **options: Any) -> Tensor:
    options.setdefault("normalization", "none")
    made = criteria.resolve(name, **options)
    first = batches[0][0] if isinstance(batches[0], (tuple, list)) else batches[0]
    analysis = fxprune.analyze(model, first)
    gather(model, analysis, [made], batches, loss=loss)
    return made(analysis.free[0], dict(model.named_parameters()))


def gradient(model: nn.Sequential, images: Tensor, labels: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(cross_entropy(model(images), labels), model[0].weight)
    return found.double()


@pytest.mark.parametrize("name", ["taylor", "taylor_l2"])
def test_taylor_is_weight_times_gradient(name: str) -> None:
    model, batches = network(), data()
    products = [model[0].weight.detach().double() * gradient(model, *b) for b in batches]
    power = 1 if name == "taylor" else 2
    expected = sum(p.abs().pow(power).sum((1, 2, 3)) for p in products) / len(batches)
    assert scored(name, model, batches).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_joint_taylor_lets_the_weights_of_a_channel_cancel_and_batches_not() -> None:
    model, batches = network(), data()
    sums = [(model[0].weight.detach().double() * gradient(model, *b)).sum((1, 2, 3)) for b in batches]
    found = scored("taylor_joint", model, batches)
    assert found.tolist() == pytest.approx((sum(s.abs() for s in sums) / len(sums)).tolist(), rel=1e-4)
    assert bool((found < scored("taylor", model, batches)).all())
    assert torch.equal(found, scored("taylor", model, batches, form="joint"))
    with pytest.raises(InputError, match="form must be 'l1', 'l2' or 'joint', not 'l3'"):
        criteria.resolve("taylor", form="l3")


def test_joint_taylor_adds_all_entries_of_a_channel_before_the_absolute_value() -> None:
    """After a flatten a channel owns several columns of the layer that reads it."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2))
    images, labels = torch.randn(6, 1, 2, 2), torch.arange(6) % 2
    cross_entropy(model(images), labels).backward()
    made, read = ((w * w.grad).detach().double() for w in (model[0].weight, model[3].weight))  # type: ignore[operator]
    expected = made.sum((1, 2, 3)).abs() + read.unflatten(1, (3, 4)).sum((0, 2)).abs()
    found = scored("taylor_joint", model, [(images, labels)], reduction="sum", consumers=True)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_fisher_is_the_mean_squared_gradient_of_single_images() -> None:
    model, batches = network(), data()
    squares = [gradient(model, x[None], y[None]).square() for b in batches for x, y in zip(*b, strict=True)]
    expected = (model[0].weight.detach().double().square() * sum(squares) / len(squares) / 2).sum((1, 2, 3))
    assert scored("hessian", model, batches).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_hutchinson_meets_the_diagonal_of_the_hessian() -> None:
    model, (batch, _) = network().double(), [(x.double(), y) for x, y in data()]
    weight = model[0].weight.detach()

    def loss(flat: Tensor) -> Tensor:
        return cross_entropy(torch.func.functional_call(model, {"0.weight": flat.view_as(weight)}, (batch[0],)), batch[1])

    diagonal = torch.autograd.functional.hessian(loss, weight.ravel()).diagonal().view_as(weight)
    expected = (weight.square() * diagonal / 2).sum((1, 2, 3))
    found = scored("hessian", model, [batch], estimator="hutchinson", draws=400)
    assert torch.allclose(found, expected, atol=0.1 * float(expected.abs().max()))


def test_hutchinson_is_exact_where_the_hessian_is_diagonal() -> None:
    """A linear layer under ``sum (output^2) / 2`` for one-hot inputs: every draw gives the diagonal."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 4, bias=False))
    nn.init.eye_(model[1].weight)
    inputs = torch.eye(3)

    def loss(output: Tensor, labels: Any) -> Tensor:
        return output.square().sum() / 2

    found = scored("hessian", model, [inputs], loss, estimator="hutchinson")
    assert found.tolist() == pytest.approx((model[0].weight.detach().square().sum(1) / 2).tolist(), rel=1e-5)


@pytest.mark.parametrize("name", ["taylor", "taylor_l2", "taylor_joint", "hessian"])
def test_permuting_channels_permutes_scores(name: str) -> None:
    model, batches, order = network(), data(), torch.randperm(4)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.copy_(model[0].weight[order])
        other[0].bias.copy_(model[0].bias[order])
        other[3].weight.copy_(model[3].weight[:, order])
    expected = scored(name, model, batches)[order]
    assert scored(name, other, batches).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("name", ["taylor", "taylor_l2", "taylor_joint", "hessian"])
def test_scaling_between_layers_changes_nothing(name: str) -> None:
    """w -> a w, next layer's w -> w / a leaves the function, and w * gradient, as they are."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    batches = [(torch.randn(6, 3), torch.randint(0, 2, (6,)))]
    before = scored(name, model, batches)
    with torch.no_grad():
        model[0].weight.mul_(3)
        model[0].bias.mul_(3)
        model[2].weight.div_(3)
    assert scored(name, model, batches).tolist() == pytest.approx(before.tolist(), rel=1e-4)


def test_consumers_add_their_own_products() -> None:
    model, batches = network(), data()[:1]
    (found,) = torch.autograd.grad(cross_entropy(model(batches[0][0]), batches[0][1]), model[3].weight)
    alone, both = (scored("taylor", model, batches, reduction="sum", consumers=c) for c in (False, True))
    assert (both - alone).tolist() == pytest.approx((found * model[3].weight).abs().sum((0, 2, 3)).tolist(), rel=1e-4)


def test_the_model_keeps_its_gradients_and_flags() -> None:
    model, batches = network(), data()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    model.train()
    means = model[1].running_mean.clone()
    scored("taylor", model, batches)
    assert not model[0].weight.requires_grad and model[0].weight.grad is None
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert model.training and torch.equal(model[1].running_mean, means)


def test_a_loss_is_needed() -> None:
    model, images = network(), torch.randn(2, 2, 5, 5)
    with pytest.raises(InputError, match="need a loss"):
        scored("taylor", model, [images])
    with pytest.raises(InputError, match="must be one number"):
        scored("taylor", model, [images], lambda output, labels: output)
    assert scored("taylor", model, [images], lambda output, labels: output.square().mean()).shape == (4,)


def test_gradients_that_are_not_finite_are_refused() -> None:
    model, images = network(), torch.randn(2, 2, 5, 5)
    with pytest.raises(InputError, match="not finite"):
        scored("taylor", model, [images], lambda output, labels: (output * 0).sum().sqrt() * torch.inf)
