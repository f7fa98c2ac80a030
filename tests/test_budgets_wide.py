"""The search under budgets on a model of 100,000 channels that may go: seconds, not minutes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis.analysis import Analysis
from fxprune.options import PruneOptions
from fxprune.planning.accounting import account_of
from fxprune.planning.policies import chosen, policy_of

pytestmark = pytest.mark.slow
SECONDS = 30.0  # of the processor; 0.2 to 5 where nothing else ran


class Block(nn.Module):
    def __init__(self, outer: int, inner: int) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(outer, inner, 1), nn.BatchNorm2d(inner), nn.Conv2d(inner, outer, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.b(self.norm(self.a(x)).relu())).relu()


def straight() -> list[nn.Module]:
    """100 groups of 1,000 channels."""
    steps = ((nn.BatchNorm2d(1000), nn.ReLU(), nn.Conv2d(1000, 1000, 3, padding=1)) for _ in range(99))
    return [nn.Conv2d(3, 1000, 3, padding=1), *(layer for step in steps for layer in step)]


def residual() -> list[nn.Module]:
    """Four streams of 500 to 4,000 channels at falling resolutions, and 40 groups of 1,000 to 4,000 inside their blocks."""
    layers: list[nn.Module] = [nn.Conv2d(3, 500, 3, padding=1)]
    for outer, inner in ((500, 1000), (1000, 2000), (2000, 2600), (4000, 4000)):
        if len(layers) > 1:
            layers.append(nn.Conv2d(outer // 2, outer, 2, 2))
        layers += [Block(outer, inner) for _ in range(10)]
    return layers


@pytest.fixture(scope="module", params=[straight, residual], ids=lambda make: make.__name__)
def analysis(request: pytest.FixtureRequest) -> Analysis:
    with torch.device("meta"):
        layers = request.param()
        last = [layer for layer in nn.Sequential(*layers).modules() if isinstance(layer, nn.Conv2d)][-1]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last.out_channels, 10)).eval()
    return fxprune.analyze(model, torch.empty(1, 3, 16, 16, device="meta"))


@pytest.mark.parametrize("scope", ["global", "layer", "isomorphic"])
@pytest.mark.parametrize("budgets", [{"macs": 0.5}, {"macs": 0.5, "params": 0.4}], ids=str)
def test_a_hundred_thousand_channels(analysis: Analysis, scope: Any, budgets: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    scores = {group.id: np.exp(rng.normal(size=group.size)) for group in analysis.free}
    assert sum(len(s) for s in scores.values()) >= 100_000
    policy, start = policy_of(PruneOptions(scope=scope, **budgets)), time.process_time()
    gone = chosen(policy, analysis, scores)
    took = time.process_time() - start
    account = account_of(analysis.cut(gone), policy, scores)
    print(f"{took:.2f} s of the processor; {account}")
    assert took < SECONDS and max(b.after / b.target for b in account.budgets) > 0.99
    assert all(b.after <= b.target for b in account.budgets)
