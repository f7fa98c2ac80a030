"""Structured ADMM: its three steps written out, stages, and that what it has at zero can go."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from support.sparsity import NETWORKS, entries, network
from torch import Tensor, nn

import fxprune
from fxprune import sparsity
from fxprune.errors import InputError
from fxprune.options import PruneOptions


def projected(method: sparsity.ADMM, model: nn.Module, values: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The nearest point with whole channels at zero, entry by entry."""
    made = {name: value.clone() for name, value in values.items()}
    for channels in entries(method.analysis, model).values():
        norms = [math.sqrt(sum(float(values[name][place]) ** 2 for name, place in c)) for c in channels]
        keep = max(1, math.floor(len(norms) * (1 - share) + 1e-9))
        for channel in sorted(range(len(norms)), key=norms.__getitem__)[: len(norms) - keep]:
            for name, place in channels[channel]:
                made[name][place] = 0
    return made


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in ("residual", "attention") else pytest.mark.slow) for k in NETWORKS]
)
def test_three_steps_entry_by_entry(kind: str) -> None:
    model, x = network(kind)
    method = sparsity.ADMM(model, x, ratio=0.5, rho=0.25, every=2, rounds=3)
    weights = {name: p for name, p in model.named_parameters() if name in method.coupled.places}
    z = projected(method, model, {n: p.detach() for n, p in weights.items()}, 0.5)
    u = {name: torch.zeros_like(p) for name, p in weights.items()}
    mine = {e for channels in entries(method.analysis, model).values() for channel in channels for e in channel}
    for step in range(4):
        for name, gradient in method.gradients().items():
            expected = 0.25 * (weights[name].detach() - z[name] + u[name])
            for place in torch.nonzero(expected).tolist():
                if (name, tuple(place)) not in mine:
                    expected[tuple(place)] = 0
            torch.testing.assert_close(gradient, expected, msg=name)
        with torch.no_grad():
            for number, parameter in enumerate(weights.values()):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step + number)) * 0.3)
        method.after_step()
        if step % 2:
            z = projected(method, model, {n: p.detach() + u[n] for n, p in weights.items()}, 0.5)
            u = {name: u[name] + p.detach() - z[name] for name, p in weights.items()}
    state = method.state_dict()
    for name in weights:
        torch.testing.assert_close(state[f"Z.{name}"], z[name], msg=name)
        torch.testing.assert_close(state[f"U.{name}"], u[name], msg=name)


def test_stages_raise_the_share() -> None:
    model, x = network("chain")
    method = sparsity.ADMM(model, x, ratio=(0.2, {"0": 0.5}, 0.75), every=2, rounds=2)
    told = []
    for _ in range(13):
        method.after_step()
        told.append((method.stage, *(len(c) for c in method.off().values())))
    # Updates at steps 2, 4 (first stage), 6, 8 (second), 10, 12 (last, and on).
    assert told[1] == (0, 2, 2) and told[3] == (1, 2, 2)
    assert told[5] == (1, 3, 0) and told[7] == (2, 3, 0)
    assert told[9] == told[12] == (2, 5, 6)
    assert method.progress()["updates"] == 6 and 0 < method.progress()["distance"] < 2


def test_all_groups_together_or_a_budget_of_macs() -> None:
    model, x = network("chain")
    with torch.no_grad():
        model[0].weight[:4] *= 0.01
    together = sparsity.ADMM(model, x, ratio=PruneOptions(0.3, scope="global"))
    assert sum(len(c) for c in together.off().values()) == round(0.3 * 14)
    method = sparsity.ADMM(model, x, ratio=[0.2, PruneOptions(macs=0.5)], every=1, rounds=1)
    method.after_step(), method.after_step()
    assert method.stage == 1
    share = method.analysis.cut({g: c.numpy() for g, c in method.gone.items()}).macs / method.analysis.macs()
    assert 0.3 < share <= 0.5
    assert method.describe()["stages"][1]["macs"] == 0.5


@pytest.mark.parametrize(
    "kind", ["residual", *(pytest.param(k, marks=pytest.mark.slow) for k in ("chain", "joined", "attention"))]
)
def test_channels_that_it_sets_to_zero_go_without_a_trace(kind: str) -> None:
    model, x = network(kind)
    model(x)
    model.eval()
    method = sparsity.ADMM(model, x, ratio=0.5)
    whole = model(x)
    method.project()
    expected = model(x)
    assert not torch.allclose(whole, expected, atol=1e-3)
    slim = fxprune.prune(model, 0.5, x, scope="layer")
    off = {group: channels.tolist() for group, channels in method.off().items()}
    assert {g.id: g.removed for g in slim.meta["fxprune"].plan.groups if g.status == "free"} == off
    torch.testing.assert_close(slim(x), expected, rtol=1e-4, atol=1e-5)


def test_weights_are_drawn_to_zero() -> None:
    """Without a loss the channels that Z has at zero vanish, and the others come to rest."""
    model, x = network("chain")
    method = sparsity.ADMM(model, x, ratio=0.5, rho=1.0, every=5)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    start = method.progress()["distance"]
    for _ in range(60):
        optimizer.zero_grad()
        method.before_step()
        optimizer.step()
        method.after_step()
    scores = method.scores()
    for group, channels in method.off().items():
        assert len(channels) and scores[group][channels].max() < 0.02 * scores[group].max()
    assert method.progress()["distance"] < 0.02 * start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.5}, "ratio must be a fraction of the prunable channels"),
        ({"ratio": ()}, "ratio names no stage"),
        ({"ratio": (0.2, {"nothing": 0.5})}, "'nothing' matches no group"),
        ({"rho": -1}, "rho must be a number above 0, not -1"),
        ({"every": 0}, "every must be a whole number of at least 1, not 0"),
        ({"rounds": 1.5}, "rounds must be a whole number"),
    ],
)
def test_bad_settings_are_said(options: dict[str, Any], message: str) -> None:
    model, x = network("chain")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=message):
        sparsity.ADMM(model, x, **options)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
