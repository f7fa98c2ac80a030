"""Repair through the rectifier behind a layer: what is cut off in both models need not be alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_repair import found_of, residual
from torch import Tensor, nn

import fxprune
from fxprune.recovery.repair import verb
from fxprune.recovery.repair.rectified import Rectifier
from fxprune.recovery.repair.repairing import Settings
from fxprune.recovery.repair.tails import tail_of

torch.set_num_threads(1)


def bound(p: Tensor, dense: Tensor, low: float, high: float) -> Tensor:
    """What a fit makes least, entry by entry."""
    inside = (p - dense) ** 2
    below, above = (p - low).clamp_min(0) ** 2, (high - p).clamp_min(0) ** 2
    return torch.where(dense <= low, below, torch.where(dense >= high, above, inside))


@pytest.mark.parametrize("bounds", [(0.0, math.inf), (0.0, 6.0), (-1.0, 1.0)])
def test_each_step_touches_the_bound_from_above(bounds: tuple[float, float]) -> None:
    """And that lies above the squared difference behind the clamp."""
    torch.manual_seed(0)
    slope = (torch.rand(2, 3).double() + 0.5) * torch.tensor([1.0, -1.0, 2.0])
    found, wanted, other, y = (3 * torch.randn(500, 2, 3).double() for _ in range(4))
    target = Rectifier(slope, bounds).target(found, wanted, other)
    dense = slope * wanted + other
    squares = [(slope * (v - target)) ** 2 for v in (found, y)]
    at, elsewhere = (bound(slope * v + other, dense, *bounds) for v in (found, y))
    assert torch.allclose(squares[0], at) and bool((squares[1] >= elsewhere - 1e-9).all())
    assert bool((elsewhere >= ((slope * y + other).clamp(*bounds) - dense.clamp(*bounds)) ** 2 - 1e-9).all())
    assert 0.1 < float((at == 0).double().mean()) < 0.9


def repaired(model: nn.Module, slim: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch, steps: int) -> Any:
    monkeypatch.setattr(verb, "Settings", lambda *a, **k: Settings(*a, **k, rectify=steps))
    return fxprune.repair(slim, model, x)


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, lambda: nn.Hardtanh(-0.5, 0.5)])
def test_it_is_better_behind_the_rectifier(act: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12), act()).eval()
    with torch.no_grad():
        model[2].weight.mul_(4)  # so that much is cut off at both ends
    x = torch.randn(2000, 16)
    slim = fxprune.prune(model, 0.5, x[:2])
    errors = []
    for steps in (0, 5):
        fixed = repaired(model, slim, x[:1000], monkeypatch, steps)
        with torch.no_grad():
            errors.append(float((fixed(x[1000:]) - model(x[1000:])).square().mean()))
        (site,) = found_of(fixed).sites
        assert site.rectified == (steps > 0)
    assert errors[1] < 0.97 * errors[0]
    held = torch.cat([x[64 * n : 64 * n + 64] for n in (1, 6, 11)])  # the second of every five chunks
    with torch.no_grad():
        y = model(held)
        for net, share in ((slim, site.before), (fixed, site.after)):
            expected = float((net(held) - y).square().sum() / (y - y.mean(0)).square().sum())
            assert share == pytest.approx(expected, rel=1e-4)


def test_rows_that_are_not_kept_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = residual()
    slim = fxprune.prune(model, 0.4, x[:2])
    kept = fxprune.repair(slim, model, x)
    monkeypatch.setattr("fxprune.recovery.repair.rectified._KEPT", 0)
    anew = fxprune.repair(slim, model, x)
    assert any(s.rectified for s in found_of(anew).sites)
    assert all(torch.equal(a, b) for a, b in zip(kept.state_dict().values(), anew.state_dict().values(), strict=True))


def test_the_norm_between_moves_with_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = residual()
    slim = fxprune.prune(model, 0.4, x[:2], scope="layer")
    plain, fixed = (repaired(model, slim, x[:100], monkeypatch, steps) for steps in (0, 5))
    assert found_of(fixed).after < found_of(fixed).before
    sites = {s.name: s for s in found_of(fixed).sites}
    done = {"blocks.0.0": "blocks.0.1", "blocks.0.3": "blocks.0.4", "blocks.1.3": "blocks.1.4"}
    done = {layer: norm for layer, norm in done.items() if sites[layer].rectified}
    assert len(done) > 1
    for norm in done.values():
        assert "together" in sites[norm].kept
        means, variances = ([net.get_buffer(f"{norm}.running_{w}") for net in (slim, fixed)] for w in ("mean", "var"))
        assert not torch.equal(*means) and torch.equal(*variances)
    assert not any(s.rectified for s in found_of(plain).sites)


def test_other_modes_of_norms_are_not_overruled() -> None:
    model, x = residual()
    slim = fxprune.prune(model, 0.4, x[:2], scope="layer")
    for mode in ("keep", "recalibrate"):
        found = found_of(fxprune.repair(slim, model, x[:100], norms=mode))  # type: ignore[arg-type]
        assert not any(s.rectified for s in found.sites) and found.after < found.before


def test_what_is_behind_a_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 1) for _ in range(4))
            self.norm, self.act, self.other = nn.BatchNorm2d(4), nn.ReLU6(), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.norm(self.a(x)))
            y = self.b(x).relu() + x
            z = torch.relu_(self.c(y) + y)
            return self.other(self.d(z).relu()).relu()

    model, x = Net().eval(), torch.randn(4, 4, 3, 3)
    slim: Any = fxprune.prune(model, 0.5, x, scope="layer")
    names = {n.name for n in slim.graph.nodes}
    found = {layer: tail_of(slim, slim, names, layer) for layer in "abcd"}
    assert {k: (t.norm is not None, t.other, t.bounds) for k, t in found.items()} == {
        "a": (True, None, (0.0, 6.0)),
        "b": (False, None, (0.0, math.inf)),
        "c": (False, ("add", "add"), (0.0, math.inf)),
        "d": (False, None, (0.0, math.inf)),
    }
