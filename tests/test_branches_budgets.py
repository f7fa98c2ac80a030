"""Residual branches as candidates beside channels, under a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_branches_pruning import TOKENS, Residual, Transformer, X, model_of
from torch import Tensor, nn

import fxprune
from fxprune.planning.policies.with_branches import scores_of_branches
from fxprune.statistics.branch_effects import branch_effects


def gone(plan: fxprune.Plan) -> list[str]:
    return [branch.id for branch in plan.branches if not branch.kept]


def quiet(model: nn.Module, *blocks: int) -> nn.Module:
    """A model, some of whose blocks add next to nothing: their last norms are nearly zero."""
    with torch.no_grad():
        for number in blocks:
            block: Any = model.get_submodule(f"blocks.{number}")
            block.bn2.weight.mul_(1e-3), block.bn2.bias.mul_(1e-3)
    return model


def test_images_tell_which_branches_do_little(tmp_path: Path) -> None:
    """Two of the blocks add next to nothing, which their convolutions do not show."""
    model = quiet(model_of("residual")[0], 1, 3)
    images = torch.randn(32, *X.shape[1:])
    slim = fxprune.prune(model, example_inputs=X, macs=0.4, branches=True, data=[images])
    plan = slim.meta["fxprune"].plan
    assert gone(plan) == ["blocks.1", "blocks.3"] and plan.account is not None
    assert plan.account.budgets[0].after <= plan.account.budgets[0].target
    assert any("2 residual branches go as a whole" in note for note in plan.account.notes)
    assert fxprune.verify(model, slim, latency=False).passed
    again = fxprune.apply(model, fxprune.Plan.from_json(plan.to_json()))
    fxprune.save(again, tmp_path / "slim.py")
    assert torch.equal(fxprune.load(tmp_path / "slim.py").eval()(images), slim(images))


def test_effects_are_those_of_the_users_own_model() -> None:
    model, x = model_of("residual")
    found = branch_effects(model, fxprune.analyze(model, x), [(X, torch.zeros(3)), (X * 2, torch.zeros(3))])
    model.requires_grad_(False)
    own = torch.cat([model(X), model(X * 2)])
    spread = sum(float((y - y.mean(0)).square().sum()) for y in (model(X), model(X * 2)))
    block: Any = model.get_submodule("blocks.2")
    handle = block.bn2.register_forward_hook(lambda module, args, output: output * 0)
    without = torch.cat([model(X), model(X * 2)])
    handle.remove()
    assert found["blocks.2"] == pytest.approx(float((without - own).square().sum()) / spread, rel=1e-4)
    assert list(found) == ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]


def test_without_images_the_score_is_the_sum_of_what_goes() -> None:
    """Inside lie the channels of conv1; of the eight that the stem and two blocks make, each block makes a third."""
    model, x = model_of("residual")
    plan = fxprune.plan(model, example_inputs=x, macs=0.5, branches=True)
    scores = {group.id: group.scores for group in plan.groups}
    inner, stream = scores["blocks.0.conv1.weight"], scores["stem.weight"]
    assert inner is not None and stream is not None
    known = {branch.id: branch.score for branch in plan.branches}
    assert known["blocks.0"] == pytest.approx(sum(inner) + sum(stream) / 3, rel=1e-4)


def test_fewer_branches_go_where_less_has_to() -> None:
    model = quiet(model_of("residual")[0], 1)
    images = torch.randn(16, *X.shape[1:])
    plans = [fxprune.plan(model, example_inputs=X, macs=m, branches=True, data=[images]) for m in (0.99, 0.3)]
    assert len(gone(plans[0])) <= len(gone(plans[1])) and "blocks.1" in gone(plans[1])
    assert all(p.account is not None and p.account.budgets[0].after <= p.account.budgets[0].target for p in plans)


def test_a_budget_beyond_channels_is_met_with_branches() -> None:
    model, x = model_of("residual")
    with pytest.raises(fxprune.InputError, match="no choice of channels meets the budgets"):
        fxprune.plan(model, example_inputs=x, macs=0.3, max_ratio=0.3)
    plan = fxprune.plan(model, example_inputs=x, macs=0.3, max_ratio=0.3, branches=True)
    assert gone(plan) and plan.macs[1] <= 0.3 * plan.macs[0]


def test_names_limit_the_candidates() -> None:
    model, x = model_of("residual")
    plan = fxprune.plan(model, example_inputs=x, macs=0.35, max_ratio=0.3, branches=["blocks.[23]"])
    assert gone(plan) and set(gone(plan)) <= {"blocks.2", "blocks.3"} and plan.settings.branches == ("blocks.[23]",)


@pytest.mark.parametrize(
    ("kept", "scope"), [({"macs": 0.5, "params": 0.5}, "global"), ({"memory": 0.9}, "global"), ({"params": 0.4}, "layer")]
)
def test_budgets_are_met(kept: dict[str, float], scope: Any) -> None:
    model, x = model_of("transformer")
    plan = fxprune.plan(model, example_inputs=x, scope=scope, branches=True, attention="heads", **kept)
    assert plan.account is not None and all(b.after <= b.target for b in plan.account.budgets)


def test_heads_go_one_by_one_or_with_the_branch() -> None:
    model, x = model_of("transformer")
    plan = fxprune.plan(model, example_inputs=x, macs=0.3, branches=True, attention="heads")
    heads = [g for g in plan.groups if g.members[0][0].endswith("qkv.weight") and g.size == 2]
    assert len(heads) == 3 and all(g.kept for g in heads)
    lost = set(gone(plan))
    assert lost or any(len(g.kept) == 1 for g in heads)


class Plain(nn.Module):
    """No residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_models_without_branches_lose_channels_alone() -> None:
    found = [fxprune.plan(Plain(), example_inputs=torch.zeros(2, 4), macs=0.5, branches=b) for b in (True, False)]
    assert [len(p.groups[0].kept) for p in found] == [8, 8] and found[0].branches == []


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a ratio": ({"ratio": 0.5, "branches": True}, "branches are candidates beside channels under a budget"),
    "no such branch": ({"macs": 0.5, "branches": ["block"]}, "branches='block' matches no residual branch"),
    "no name": ({"macs": 0.5, "branches": [3]}, "branches must name modules or parameters by text"),
    "no truth value": ({"macs": 0.5, "branches": 3.5}, "branches must be a list"),
    "no images": ({"macs": 0.5, "branches": True, "data": []}, "data hold no batches"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_arguments_are_told(name: str) -> None:
    options, message = WRONG[name]
    with pytest.raises(fxprune.InputError, match=message):
        fxprune.plan(Residual(), example_inputs=X, **options)


def test_a_branch_that_cannot_go_is_told() -> None:
    with pytest.raises(fxprune.InputError, match=r"branches='blocks.0': 'blocks.0' cannot go: ignore='blocks.0'"):
        fxprune.plan(Residual(), example_inputs=X, macs=0.5, branches="blocks.0", ignore="blocks.0")


def test_scores_below_zero_are_shifted() -> None:
    model, x = model_of("residual")
    analysis = fxprune.analyze(model, x)
    scores = {group.id: -torch.arange(1.0, group.size + 1).double().numpy() for group in analysis.free}
    assert all(float(s[0]) >= 0 for s in scores_of_branches(analysis, scores).values())


def test_data_that_can_be_read_once_serve_criterion_and_branches() -> None:
    model, x = model_of("residual")
    batches = ((torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64)) for _ in range(2))
    plan = fxprune.plan(model, example_inputs=x, macs=0.5, criterion="wanda", branches=True, data=batches)
    assert all(b.score is not None for b in plan.branches)


def test_images_that_are_no_batches_are_refused() -> None:
    model, x = model_of("residual")
    with pytest.raises(fxprune.InputError, match="the model failed on a batch of the data"):
        fxprune.plan(model, example_inputs=x, macs=0.5, branches=True, data=torch.randn(8, 3, 8, 8))


@pytest.mark.slow
def test_deit_tiny_loses_blocks_under_a_budget(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm has DeiT")
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224").eval()
    slim = fxprune.prune(model, macs=0.5, branches=True, data=[torch.randn(8, 3, 224, 224)], max_ratio=0.3)
    plan = slim.meta["fxprune"].plan
    assert len(gone(plan)) >= 2 and fxprune.verify(model, slim, latency=False).passed
    fxprune.save(slim, tmp_path / "slim.py")
    image = torch.randn(1, 3, 224, 224)
    assert torch.equal(fxprune.load(tmp_path / "slim.py").eval()(image), slim(image))


def test_transformers_are_measured_on_tokens() -> None:
    model, x = model_of("transformer")
    found = branch_effects(model, fxprune.analyze(model, x), [TOKENS])
    assert isinstance(model, Transformer) and len(found) == 6 and all(value > 0 for value in found.values())
