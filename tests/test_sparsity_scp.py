"""SCP: masks drawn as published, statistics of what was kept, and constants folded into the layers that read them."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from support.sparsity import network
from torch import Tensor, nn

import fxprune
from fxprune import sparsity
from fxprune.errors import InputError, PlanMismatch, PruneError
from fxprune.recovery.sparsity.gate import mean_after_relu


def silenced(model: nn.Module, *channels: tuple[str, int]) -> nn.Module:
    """Channels of norms whose values are far below zero."""
    with torch.no_grad():
        for name, channel in channels:
            model.get_submodule(name).weight[channel], model.get_submodule(name).bias[channel] = 0.01, -2.0
    return model


# ---------------------------------------------------------------- the formulas


def test_the_gate_by_hand() -> None:
    gate = sparsity.Gate()
    scale, shift = torch.tensor([2.0, -0.5, 0.0]), torch.tensor([0.05, 1.05, 0.0])
    phi = [0.5, 0.5 * math.erfc(2 / math.sqrt(2)), 1.0]
    assert gate.silence(scale, shift).tolist() == pytest.approx(phi, abs=1e-6)
    assert gate.drop(scale, shift).tolist() == pytest.approx([1 / (1 + math.exp(-20 * (p - 0.95))) for p in phi], rel=1e-4)
    u, p = torch.tensor([0.3, 0.6, 0.9]), gate.drop(scale.double(), shift.double())
    # The first of a Gumbel-softmax over (1 - p, p) at temperature 1/2: only the difference of the two Gumbels counts.
    noise = torch.stack([torch.logit(u.double()), torch.zeros(3).double()])
    expected = ((torch.stack([1 - p, p]).log() + noise) / 0.5).softmax(0)[0]
    torch.testing.assert_close(gate.mask(scale.double(), shift.double(), u.double()), expected)


def test_draws_are_kept_as_often_as_the_gate_says() -> None:
    gate = sparsity.Gate()
    scale, shift = torch.ones(20_000), torch.full((20_000,), -1.55)  # phi = 0.945: p = 0.477
    draws = gate.mask(scale, shift, torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
    assert (draws > 0.5).double().mean().item() == pytest.approx(1 - gate.drop(scale, shift)[0].item(), abs=0.015)


def test_mean_after_relu_is_the_integral() -> None:
    scale, shift = torch.tensor([0.7, 1.3, -0.2]).double(), torch.tensor([-0.4, 0.9, -0.1]).double()
    z = torch.linspace(-9, 9, 200_001).double()[:, None]
    values = (shift + scale * z).relu() * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(mean_after_relu(scale, shift), torch.trapezoid(values, z, dim=0), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"center": 1.0}, "center must be a number above 0 and below 1, not 1.0"),
        ({"temperature": 0}, "temperature must be a number above 0, not 0"),
        ({"tau": float("inf")}, "tau must be a finite number"),
    ],
)
def test_bad_gates_are_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sparsity.Gate(**settings)


def test_what_cannot_be_masked_is_said() -> None:
    model, x = network("chain")
    with pytest.raises(InputError, match=r"gate must be a fxprune.sparsity.Gate"):
        sparsity.SCP(model, x, gate=0.05)
    model[2] = nn.GELU()
    model[5] = nn.ReLU6()  # max(0, m x) is m max(0, x), but not so for it
    with pytest.raises(InputError, match="read behind a batch norm and ReLU alone"):
        sparsity.SCP(model, x)
    assert not any(m._forward_hooks for m in model.modules())


# ---------------------------------------------------------------- the masks


def test_a_masked_step_is_the_published_block() -> None:
    """Norm, ReLU, draw; running mean and variance of the kept alone; gradients through the draw."""
    model, x = network("chain")
    silenced(model, ("1", 2))
    plain = copy.deepcopy(model)
    method = sparsity.SCP(model, x, seed=3)
    before, seen = model[1].running_mean.clone(), []
    handle = model[3].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    model(x).sum().backward()
    handle.remove()
    mask = method.masks["1"]._drawn(model[1]).detach()
    torch.testing.assert_close(seen[0], plain[2](plain[1](plain[0](x))).detach() * mask[:, None, None])
    kept = mask > 0.5
    assert 0 < kept.sum() < 6
    for name in ("running_mean", "running_var"):
        now, then = getattr(model[1], name), getattr(plain[1], name)
        assert torch.equal(now[kept], then[kept]) and not torch.equal(now[~kept], then[~kept])
    assert torch.equal(model[1].running_mean[~kept], before[~kept])
    scale, shift = model[1].weight.detach().requires_grad_(), model[1].bias.detach().requires_grad_()
    method.gate.mask(scale, shift, torch.full((6,), 0.5)).sum().backward()
    assert scale.grad.any() and shift.grad.any()


def test_draws_follow_the_step() -> None:
    model, x = network("chain")
    method = sparsity.SCP(model, x, gate=sparsity.Gate(center=0.5))
    twin = copy.deepcopy(model)
    first = [model(x), model(x), twin(x)]  # accumulated, checkpointed, averaged: one mask
    torch.testing.assert_close(first[0], first[1])
    torch.testing.assert_close(first[0], first[2])
    method.after_step()
    assert not torch.allclose(model(x), first[0])
    other = sparsity.SCP(network("chain")[0], x, seed=1)
    assert not torch.equal(other.masks["1"]._drawn(model[1]), method.masks["1"]._drawn(model[1]))


def test_norms_that_run_several_times_and_recomputed_activations() -> None:
    """Gradients are those of the function that was computed; nothing that backward needs was changed."""

    class Twice(nn.Module):
        """One block for two inputs, recomputed in the backward pass if `recompute`."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.head, self.recompute = nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 2), False

        def block(self, x: Tensor) -> Tensor:
            return self.norm(self.one(x)).relu()

        def forward(self, x: Tensor) -> Tensor:
            if self.recompute:
                parts = [torch.utils.checkpoint.checkpoint(self.block, v, use_reentrant=False) for v in (x, -x)]
                return self.head(parts[0]) + self.head(parts[1])
            return self.head(self.block(x)) + self.head(self.block(-x))

    model, x = Twice(), torch.randn(5, 3)
    method = sparsity.SCP(model, x, gate=sparsity.Gate(center=0.5))
    gradients = []
    for model.recompute in (False, True):
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
    mask = method.masks["norm"]._drawn(model.norm)
    both = [torch.nn.functional.batch_norm(model.one(v), None, None, model.norm.weight, model.norm.bias, True) for v in (x, -x)]
    model.zero_grad()
    (model.head(mask * both[0].relu()) + model.head(mask * both[1].relu())).square().sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients[0])


def test_what_is_off_is_zero_in_evaluation_and_can_be_removed() -> None:
    model, x = network("chain")
    for _ in range(3):
        model(x)
    silenced(model, ("1", 0), ("1", 3), ("4", 5)).eval()
    without = model(x)
    method = sparsity.SCP(model, x)
    off = {group: channels.tolist() for group, channels in method.off().items()}
    assert {0, 3} <= set(off["0.weight"]) and 5 in off["3.weight"]
    masked = model(x)
    with pytest.raises(PruneError, match="take them off with its remove"):
        fxprune.prune(model, 0.5, x)
    method.remove()
    assert torch.equal(model(x), without)
    slim = fxprune.prune(model, 0.05, x, criterion="bn_relu", scope="threshold", max_ratio=0.99)
    assert {g.id: g.removed for g in slim.meta["fxprune"].plan.groups if g.status == "free"} == off
    torch.testing.assert_close(slim(x), masked, rtol=1e-4, atol=1e-5)


def test_a_channel_of_several_norms_is_off_when_all_of_them_say_so() -> None:
    class Twice(nn.Module):
        """Two norms read one layer."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm1, self.norm2 = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)
            self.head1, self.head2 = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            return self.head1(self.norm1(x).relu()) + self.head2(self.norm2(x).relu())

    model = silenced(Twice(), ("norm1", 1), ("norm1", 2), ("norm2", 2))
    method = sparsity.SCP(model, torch.zeros(2, 3))
    assert method.off()["one.weight"].tolist() == [2]
    assert method.progress()["off"] == 1 and method.progress()["channels"] == 4


def test_a_part_of_a_residual_stream_is_not_masked() -> None:
    """`norm` is read by ReLU alone, and its channels by the head, too, behind a sum."""
    model, x = network("residual")
    method = sparsity.SCP(model, x)
    assert list(method.masks) == ["norm1"] and list(method.off()) == ["one.weight"]
    assert not model.norm._forward_hooks and method.gradients().keys() == {"norm1.weight", "norm1.bias"}


def test_a_depthwise_layer_between_two_masks() -> None:
    model, x = network("joined")
    method = sparsity.SCP(silenced(model, ("norm", 1)), x)
    assert list(method.masks) == ["norm"] and 1 in method.off()["one.weight"].tolist()
    model.eval()
    masked = model(x)
    with torch.no_grad():  # whatever the channel held before
        model.one.weight[1], model.deep.weight[1] = 7.0, -3.0
    torch.testing.assert_close(model(x), masked)


# ---------------------------------------------------------------- compensation


class Front(nn.Module):
    """Norm and ReLU before `behind`; what follows is a norm, or nothing."""

    def __init__(self, *behind: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.behind = nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.Sequential(*behind)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.norm(self.conv(x)).relu())


BEHIND = {
    "a bias": (lambda: [nn.Conv2d(6, 3, 3)], {"behind.0": "behind.0.bias"}),
    "a norm": (lambda: [nn.Conv2d(6, 3, 2, bias=False), nn.BatchNorm2d(3)], {"behind.0": "behind.1.running_mean"}),
    "a flattened map": (lambda: [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 3)], {"behind.2": "behind.2.bias"}),
    "a pooled map": (
        lambda: [nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(6, 3)],
        {"behind.3": "behind.3.bias"},
    ),
}


def constant(model: Front) -> fxprune.Plan:
    """Two channels become constants, and go."""
    with torch.no_grad():
        for tensor in (model.norm.weight, model.norm.bias):
            tensor.copy_(torch.linspace(0.5, 1.5, 6))
        model.norm.weight[[1, 4]], model.norm.bias[[1, 4]] = 0.0, torch.tensor([0.8, -0.3])
    return fxprune.plan(model, {"conv": 1 / 3}, torch.zeros(2, 2, 6, 6), criterion="bn_scale")


@pytest.mark.parametrize("kind", BEHIND)
def test_constants_are_folded_exactly(kind: str) -> None:
    make, expected = BEHIND[kind]
    model = Front(*make()).eval()
    plan, x = constant(model), torch.randn(3, 2, 6, 6)
    before = copy.deepcopy(model.state_dict())
    made = sparsity.compensate(model, plan)
    assert made.folded == expected and not made.left
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    slim = fxprune.apply(made.model, plan)
    torch.testing.assert_close(slim(x), model(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(fxprune.apply(model, plan)(x), model(x), atol=1e-3)


def test_padding_is_exact_but_for_the_border() -> None:
    model = Front(nn.Conv2d(6, 3, 3, padding=1)).eval()
    plan, x = constant(model), torch.randn(3, 2, 6, 6)
    found, expected = fxprune.apply(sparsity.compensate(model, plan).model, plan)(x), model(x)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-5, atol=1e-5)
    assert (found - expected)[..., 0].abs().min() > 1e-4


LEFT = {
    "no bias, no norm": (lambda: [nn.Conv2d(6, 3, 1, bias=False), nn.ReLU()], "no bias, and no batch norm"),
    "another activation": (lambda: [nn.GELU(), nn.Conv2d(6, 3, 1)], "not a batch norm and ReLU alone"),
}


@pytest.mark.parametrize("kind", LEFT)
def test_layers_that_get_nothing_say_why(kind: str) -> None:
    make, message = LEFT[kind]
    model = Front(*make()).eval()
    made = sparsity.compensate(model, constant(model))
    (why,) = made.left.values()
    assert message in why and not made.folded
    with pytest.raises(PlanMismatch, match="made for another model"):
        sparsity.compensate(network("chain")[0], constant(model))
