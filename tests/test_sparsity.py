"""Sparse learning: the penalties by hand and entry by entry, and that nothing else is touched."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from support.sparsity import NETWORKS, entries, network
from torch import nn

import fxprune
from fxprune import sparsity
from fxprune.errors import InputError, NothingToPrune, PruneError

METHODS: dict[str, dict[str, Any]] = {
    "group": {"strength": 0.01},
    "scale": {"strength": 0.01},
    "admm": {"ratio": 0.5, "rho": 0.2, "every": 1, "rounds": 1},
    "scp": {"strength": 0.01},
}
# No norm; a LayerNorm alone; norms that more than ReLU reads.
NOTHING = {"scale": ("attention",), "scp": ("attention", "shared"), "group": (), "admm": ()}
QUICK = ("residual", "shared")
CASES = [
    pytest.param(method, kind, marks=() if kind in QUICK else pytest.mark.slow)
    for method in METHODS
    for kind in NETWORKS
    if kind not in NOTHING[method]
]


def added(method: sparsity.Sparsity, model: nn.Module, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """What `before_step` adds to gradients of one."""
    for tensor in model.parameters():
        tensor.grad = torch.ones_like(tensor) if tensor.requires_grad else None
    method.before_step(scale)
    return {name: tensor.grad - 1 for name, tensor in model.named_parameters() if tensor.grad is not None}


# ---------------------------------------------------------------- what holds for all of them


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_is_added_is_the_gradient_of_the_penalty(name: str, kind: str) -> None:
    model, x = network(kind)
    method = sparsity.make(name, model, x, **METHODS[name])
    method.after_step()  # of ADMM, so that U is not zero
    found = added(method, model, scale=8.0)
    model.zero_grad()
    (8.0 * method.penalty()).backward()
    for key, parameter in model.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[key], expected, rtol=1e-4, atol=1e-6, msg=key)
    assert any(tensor.abs().max() > 1e-4 for tensor in found.values())
    method.remove()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_only_what_belongs_to_channels_that_may_go_is_touched(name: str, kind: str) -> None:
    model, x = network(kind)
    method = sparsity.make(name, model, x, **METHODS[name])
    mine = {e for channels in entries(method.analysis, model).values() for channel in channels for e in channel}
    before = copy.deepcopy(model.state_dict())
    for key, tensor in added(method, model).items():
        touched = {(key, tuple(place)) for place in torch.nonzero(tensor).tolist()}
        assert touched <= mine, key
    method.after_step()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    method.remove()


@pytest.mark.parametrize("name", METHODS)
def test_frozen_parameters_get_nothing_and_missing_gradients_come(name: str) -> None:
    model, x = network("residual")
    method = sparsity.make(name, model, x, **METHODS[name])
    model.norm1.weight.requires_grad_(False)
    method.before_step()
    assert model.norm1.weight.grad is None and model.norm1.bias.requires_grad
    there = {key for key, p in model.named_parameters() if p.grad is not None}
    assert there == method.gradients().keys() and there
    method.remove()


@pytest.mark.parametrize("name", METHODS)
def test_equal_weights_give_equal_steps_and_states_resume(name: str) -> None:
    model, x = network("chain")
    runs = []
    for _ in range(2):
        twin = copy.deepcopy(model)
        method = sparsity.make(name, twin, x, **{**METHODS[name], **({"every": 2, "rounds": 2} if name == "admm" else {})})
        optimizer = torch.optim.SGD(twin.parameters(), 0.1)
        for step in range(6):
            if runs and step == 3:  # a new one goes on
                state = method.state_dict()
                method.remove()
                method = sparsity.make(name, twin, x, **method_options(method))
                method.load_state_dict(state)
            twin(x).square().sum().backward()
            method.before_step()
            optimizer.step(), optimizer.zero_grad()
            method.after_step()
        runs.append((twin.state_dict(), method.state_dict(), method.progress()))
    for one, two in zip(runs[0][:2], runs[1][:2], strict=True):
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert runs[0][2] == runs[1][2] and int(runs[0][1]["steps"]) == 6


def method_options(method: sparsity.Sparsity) -> dict[str, Any]:
    if isinstance(method, sparsity.ADMM):
        return {"ratio": 0.5, "rho": method.rho, "every": method.every, "rounds": method.rounds}
    return {"strength": method.strength}


@pytest.mark.parametrize("name", METHODS)
def test_a_state_of_something_else_is_refused(name: str) -> None:
    model, x = network("chain")
    method = sparsity.make(name, model, x, **METHODS[name])
    method.after_step()
    with pytest.raises(InputError, match="another method or model: other"):
        method.load_state_dict({**method.state_dict(), "other": torch.zeros(1)})
    assert method.steps == 1


def test_an_analysis_says_what_is_spared() -> None:
    model, x = network("chain")
    method = sparsity.GroupPenalty(model, fxprune.analyze(model, x, ignore=["3"]))
    assert list(method.scores()) == ["0.weight"] and "4.weight" not in method.gradients()
    with pytest.raises(InputError, match=r"analysis is of another model.*'0.weight'"):
        sparsity.GroupPenalty(network("shared")[0], fxprune.analyze(model, x))


def test_a_model_that_was_changed_is_refused() -> None:
    model, x = network("chain")
    method = sparsity.GroupPenalty(model, x)
    model[0].weight = nn.Parameter(torch.zeros(5, 1, 3, 3))
    with pytest.raises(PruneError, match=r"'0.weight' is no longer what it was"):
        method.before_step()


def test_half_precision_is_counted_in_float32() -> None:
    model, x = network("chain")
    method = sparsity.GroupPenalty(model, x, strength=0.5)
    model.to(torch.bfloat16)
    assert all(score.dtype is torch.float32 for score in method.scores().values())
    assert added(method, model)["0.weight"].dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0}, "strength must be a number above 0, not 0"),
        ({"strength": float("nan")}, "strength must be a number above 0"),
        ({"alpha": -1}, "alpha must be a number from 0 to 64, not -1"),
        ({"squared": "yes"}, "squared must be True or False"),
        ({"strenght": 1}, "no option 'strenght'.*did you mean 'strength'"),
    ],
)
def test_bad_settings_are_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sparsity.make("group", *network("chain"), **options)


def test_what_cannot_be_is_said() -> None:
    model, x = network("chain")
    with pytest.raises(InputError, match=r"no sparse learning 'grup'.*did you mean 'group'"):
        sparsity.make("grup", model, x)
    with pytest.raises(InputError, match=r"must be an nn.Module"):
        sparsity.GroupPenalty(3, x)
    with pytest.raises(NothingToPrune):
        sparsity.GroupPenalty(nn.Linear(3, 2), torch.zeros(1, 3))
    with pytest.raises(InputError, match="no norm scales channels that may go"):
        sparsity.ScalePenalty(*network("attention"))


def test_gradients_that_a_scaler_scaled() -> None:
    """The step of the optimizer is that without mixed precision, however large the scale; also of accumulated gradients."""
    found = []
    for scaled in (False, True):
        torch.manual_seed(5)
        model, x = network("chain")
        method = sparsity.GroupPenalty(model, x, strength=0.1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1024.0)
        for part in x.split(1) if scaled else [x]:
            scaler.scale(model.eval()(part).sum()).backward()
        method.before_step(scaler.get_scale())
        scaler.step(optimizer), scaler.update()
        found.append(model.state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-5, msg=key)


# ---------------------------------------------------------------- the group penalty


@pytest.mark.parametrize(
    ("squared", "biases"), [(False, True), *(pytest.param(*c, marks=pytest.mark.slow) for c in ((False, False), (True, True)))]
)
@pytest.mark.parametrize("kind", NETWORKS)
def test_group_penalty_entry_by_entry(kind: str, biases: bool, squared: bool) -> None:
    model, x = network(kind)
    method = sparsity.GroupPenalty(model, x, strength=0.5, alpha=3.0, squared=squared, biases=biases)
    expected = {key: torch.zeros_like(p) for key, p in model.named_parameters()}
    weights, total = {key: p.detach() for key, p in model.named_parameters()}, 0.0
    for group, channels in entries(method.analysis, model, biases).items():
        squares = [sum(float(weights[key][place]) ** 2 for key, place in channel) for channel in channels]
        strong = squares if squared else [math.sqrt(s) for s in squares]
        for channel, s, n in zip(channels, squares, strong, strict=True):
            gamma = 2 ** (3.0 * (max(strong) - n) / (max(strong) - min(strong)))
            total += gamma * s
            for key, place in channel:
                expected[key][place] += 0.5 * gamma * weights[key][place]
        assert method.scores()[group].tolist() == pytest.approx([math.sqrt(s) for s in squares], rel=1e-4)
    assert method.penalty().item() == pytest.approx(0.25 * total, rel=1e-4)
    for key, tensor in added(method, model).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-4, atol=1e-5, msg=key)


def test_equal_channels_shrink_alike() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    nn.init.ones_(model[0].weight), nn.init.ones_(model[1].weight)
    method = sparsity.GroupPenalty(model, torch.zeros(1, 2), strength=1.0)
    assert method.shrinkage()["0.weight"].tolist() == [1, 1, 1]
    with torch.no_grad():
        model[0].weight[1], model[1].weight[0, 1] = 0, 0
    assert method.shrinkage()["0.weight"].tolist() == [1, 16, 1] and method.off()["0.weight"].tolist() == [1]
    told = method.progress()
    assert told == {"channels": 3, "off": 1, "share": 1 / 3, "penalty": 3.0}


@pytest.mark.slow
def test_the_gradient_is_that_of_torch_pruning() -> None:
    """Where it and we count the same: no groups, no biases, no transposed layers."""
    tp = pytest.importorskip("torch_pruning", reason="needs Torch-Pruning")
    model, x = network("chain")
    peer = tp.pruner.GroupNormPruner(model, x, tp.importance.GroupMagnitudeImportance(), reg=0.5, ignored_layers=[model[8]])
    method = sparsity.GroupPenalty(model, x, strength=0.5)
    ours = added(method, model)
    for tensor in model.parameters():
        tensor.grad = torch.zeros_like(tensor)
    peer.regularize(model)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(ours[key], parameter.grad, rtol=1e-4, atol=1e-6, msg=key)


# ---------------------------------------------------------------- scales of norms


@pytest.mark.parametrize("coupled", [False, True])
def test_scale_penalty_by_hand(coupled: bool) -> None:
    """The stream of four channels has the norms `norm` and `norm2`; the six channels between have `norm1`."""
    model, x = network("residual")
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([3.0, -3.0, 0.0, 0.0]))
        model.norm2.weight.copy_(torch.tensor([4.0, 0.0, -2.0, 0.0]))
        model.norm1.weight.copy_(torch.tensor([1.0, -2.0, 0.0, 0.0, 0.0, 0.5]))
    method = sparsity.ScalePenalty(model, x, strength=0.5, coupled=coupled)
    assert method.penalty().item() == 0.5 * (5 + 3 + 2 + 3.5 if coupled else 12 + 3.5)
    found = added(method, model)
    assert found["norm1.weight"].tolist() == [0.5, -0.5, 0, 0, 0, 0.5]
    assert found["norm.weight"].tolist() == pytest.approx([0.3, -0.5, 0, 0] if coupled else [0.5, -0.5, 0, 0])
    assert found["norm2.weight"].tolist() == pytest.approx([0.4, 0, -0.5, 0] if coupled else [0.5, 0, -0.5, 0])
    assert not any(tensor.any() for key, tensor in found.items() if not key.startswith("norm") or key.endswith("bias"))
    assert method.scores()["stem.weight"].tolist() == [4, 3, 2, 0] and method.off()["stem.weight"].tolist() == [3]
    method.penalty().backward()  # at zero scales, too
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
