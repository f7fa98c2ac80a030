"""Rankings by kind of group, ratios by name beside budgets, and limits for some groups alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import NETWORKS
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError
from fxprune.options import PruneOptions
from fxprune.planning.policies import policy_of


class Mixed(nn.Module):
    """Two blocks of one kind on a stream, and a linear layer of another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.ModuleList([nn.Conv2d(16, 24, 3, padding=1) for _ in range(2)])
        self.outer = nn.ModuleList([nn.Conv2d(24, 16, 3, padding=1) for _ in range(2)])
        self.fc, self.head = nn.Linear(16, 40), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(inner(x).relu())
        return self.head(self.fc(x.mean((2, 3))).relu())


X = torch.zeros(1, 3, 8, 8)
SIZES = {"stem.weight": 16, "inner.0.weight": 24, "inner.1.weight": 24, "fc.weight": 40}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


def kept(model: nn.Module, ratio: Any = None, **options: Any) -> dict[str, int]:
    plan = fxprune.plan(model, ratio, X, **options)
    for budget in plan.account.budgets if plan.account else ():
        assert budget.after <= budget.target
    return {g.id: len(g.kept) for g in plan.groups if g.status == "free"}


def test_kinds_are_told_by_what_uses_the_channels(model: nn.Module) -> None:
    kinds = {g.id: g.kind for g in fxprune.analyze(model, X).free}
    assert set(kinds) == set(SIZES) and len(set(kinds.values())) == 3
    assert kinds["inner.0.weight"] == kinds["inner.1.weight"] and ("producer", "Linear", "weight", 0) in kinds["fc.weight"]


def test_each_kind_is_ranked_alone_and_gives_up_the_ratio(model: nn.Module) -> None:
    analysis = fxprune.analyze(model, X)
    # By one ranking of all, everything would come from `inner.0` and `fc`.
    scores = {name: np.linspace(1, 2, size) for name, size in SIZES.items()}
    scores["inner.0.weight"], scores["fc.weight"] = scores["inner.0.weight"] / 10, scores["fc.weight"] / 5
    gone = policy_of(PruneOptions(0.25, scope="isomorphic")).choose(analysis, scores)
    assert {name: channels.tolist() for name, channels in gone.items()} == {
        "stem.weight": [0, 1, 2, 3],
        "inner.0.weight": [*range(12)],  # a quarter of the 48 of its kind
        "fc.weight": [*range(10)],
    }
    everything = policy_of(PruneOptions(0.25)).choose(analysis, scores)
    assert {name: len(channels) for name, channels in everything.items()} == {"inner.0.weight": 22, "fc.weight": 4}


@pytest.mark.parametrize("budgets", [{"macs": 0.5}, {"params": 0.4}, {"memory": 0.6}], ids=str)
def test_kinds_under_budgets(model: nn.Module, budgets: dict[str, float]) -> None:
    plan = fxprune.plan(model, None, X, scope="isomorphic", **budgets)
    [budget] = plan.account.budgets
    assert budget.after <= budget.target
    assert budget.after >= 0.99 * budget.target or "below the nearest budget" in plan.account.notes[0]
    assert plan.account.saliency <= plan.account.bound


@pytest.mark.parametrize("scope", ["global", "layer", "isomorphic"])
def test_ratios_by_name_settle_their_groups_beside_a_budget(model: nn.Module, scope: Any) -> None:
    found = kept(model, {"stem": 0.0, "inner.0": 0.75}, macs=0.5, scope=scope)
    assert found["stem.weight"] == 16 and found["inner.0.weight"] == 6 and found["inner.1.weight"] < 24
    plan = fxprune.plan(model, {"inner.*": 0.9}, X, macs=0.9, scope=scope)  # met by the ratios alone
    assert len(plan.group("stem.weight").kept) == 16 and len(plan.group("inner.1.weight").kept) == 2
    assert fxprune.Plan.from_json(plan.to_json()).settings.ratio == {"inner.*": 0.9}
    with pytest.raises(
        InputError, match=r"ratio pattern 'iner.0' matches no group that may be pruned \(did you mean 'inner.0'"
    ):
        kept(model, {"iner.0": 0.5}, macs=0.5, scope=scope)


@pytest.mark.parametrize("what", [{"macs": 0.4}, {"ratio": 0.6}], ids=str)
@pytest.mark.parametrize("scope", ["global", "layer", "isomorphic"])
def test_limits_for_some_groups(model: nn.Module, scope: Any, what: dict[str, Any]) -> None:
    found = kept(model, scope=scope, min_width={"stem": 9, "Linear": 17}, round_to={"inner.1": 4, "Linear": 8}, **what)
    assert found["stem.weight"] >= 9 and found["fc.weight"] >= 17
    assert found["inner.1.weight"] % 4 == 0 and found["fc.weight"] % 8 == 0
    found = kept(model, scope=scope, max_ratio={"inner.*": 0.25, "*": 0.9}, min_width=3, **what)
    assert min(found["inner.0.weight"], found["inner.1.weight"]) >= 18 and min(found.values()) >= 3


def test_limits_bind_and_patterns_match_something(model: nn.Module) -> None:
    with pytest.raises(InputError, match=r"what binds is max_ratio=0.95 and min_width=15"):
        kept(model, macs=0.3, min_width=15)
    with pytest.raises(InputError, match="round_to pattern 'Conv3d' matches no group that may be pruned"):
        kept(model, 0.5, round_to={"Conv3d": 8})
    for wrong in ({}, {"a": 0}, {3: 1}, "8", 2.5, 0):
        with pytest.raises(InputError, match=r"^min_width must be a whole number of at least 1, or one for each pattern"):
            PruneOptions(0.5, min_width=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", ["global", "layer", "isomorphic"])
def test_one_head_is_kept_at_least(scope: Any) -> None:
    net = NETWORKS["fused qkv"]
    plan = fxprune.plan(net.build(), 0.9, net.inputs(2), attention="heads", scope=scope, max_ratio=1.0)
    heads = [g for g in plan.groups if g.status == "free" and any(n == "qkv.weight" and a == 0 for n, a, _ in g.members)]
    assert heads and all(len(g.kept) >= 1 for g in heads)
