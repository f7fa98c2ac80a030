"""Residual branches that go: the rewrite, its proofs, and the plans that list them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune

X = torch.randn(3, 3, 8, 8)
TOKENS = torch.randn(2, 5, 3)


class Block(nn.Module):
    """A basic block, whose rectifiers work in place, as torchvision's do."""

    def __init__(self, width: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.down = None if width == out else nn.Conv2d(width, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 8), Block(8, 16, 2), Block(16, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Layer(nn.Module):
    """A layer of a vision transformer, with a drop path."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.gamma = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)
        x = x + self._drop(self.proj(y))
        return x + self.gamma * self.mlp(self.norm2(x))

    def _drop(self, x: Tensor) -> Tensor:
        return x * torch.empty(len(x), 1, 1).bernoulli_(0.9) if self.training else x


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 8), nn.Linear(8, 4)
        self.layers = nn.Sequential(*(Layer(8, 2) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(x)).mean(1))


CASES: dict[str, tuple[type[nn.Module], Tensor, dict[str, Any], str]] = {
    "residual": (Residual, X, {"blocks.1": False, "blocks.2": False}, "blocks.{}.bn2"),
    "transformer": (Transformer, TOKENS, {"layers.0.mlp": False, "layers.2": False}, "layers.{}"),
}


def model_of(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    kind, x, _, _ = CASES[name]
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    return model.eval(), x


def planned(name: str) -> tuple[nn.Module, Tensor, fxprune.Plan]:
    """A plan that removes channels and two branches."""
    model, x = model_of(name)
    return model, x, fxprune.revise(model, fxprune.plan(model, 0.3, x), CASES[name][2])


def without(name: str, model: nn.Module, x: Tensor) -> fxprune.Plan:
    """A plan that removes two branches, and no channels."""
    plan = fxprune.plan(model, 0.3, x)
    whole = {group.id: range(group.size) for group in plan.groups if group.status == "free"}
    return fxprune.revise(model, plan, {**whole, **CASES[name][2]})


@pytest.mark.parametrize("name", CASES)
def test_the_certificate_holds(name: str) -> None:
    model, _, plan = planned(name)
    slim = fxprune.apply(model, plan)
    checks = fxprune.verify(model, slim, latency=False)
    assert checks.passed and checks.permutation_error is not None
    assert checks.flop_counter is not None and checks.flop_counter == checks.macs
    report = slim.meta["fxprune"]
    assert report.to_dict()["branches_removed"] == sorted(CASES[name][2]) and "2 branches removed" in str(report)
    assert sum(p.numel() for p in slim.parameters()) == plan.params[1]
    gone = {tensor for branch in plan.branches if not branch.kept for tensor in branch.tensors}
    assert gone and not gone & slim.state_dict().keys()


def test_the_users_own_model_computes_the_same_without_the_branches() -> None:
    """Of channels nothing goes here, so that the user's own model, its branches multiplied by zero by hooks, says it all."""
    model, x = model_of("residual")
    slim = fxprune.apply(model, without("residual", model, x))
    own: Any = copy.deepcopy(model)
    for block in (own.blocks[1], own.blocks[2]):
        block.bn2.register_forward_hook(lambda module, args, output: output * 0)
    other = torch.randn(5, 3, 12, 10)
    assert torch.allclose(slim(other), own(other), atol=1e-6) and not torch.allclose(slim(other), model(other), atol=1e-3)


def test_the_users_own_transformer_computes_the_same_without_the_branches() -> None:
    model, x = model_of("transformer")
    slim = fxprune.apply(model, without("transformer", model, x))
    own: Any = copy.deepcopy(model)
    with torch.no_grad():
        own.layers[0].gamma.zero_(), own.layers[2].proj.weight.zero_(), own.layers[2].proj.bias.zero_()
    assert torch.allclose(slim(x), own(x), atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_rewrite_is_found_out(name: str) -> None:
    """The slim model of other branches differs from the masked original."""
    from fxprune.proofs.masked import masked_error

    model, x, plan = planned(name)
    analysis = fxprune.analyze(model, x)
    slim = fxprune.apply(model, plan)
    cuts = plan.cuts(analysis)
    assert masked_error(analysis.cut(cuts), model, slim) < 1e-5
    first = next(iter(CASES[name][2]))
    assert masked_error(analysis.cut({n: c for n, c in cuts.items() if n != first}), model, slim) > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_the_result_trains_and_is_left_alone(name: str) -> None:
    """Rectifiers in place do not write into what remains; the user's input and model stay as they are."""
    model, x, plan = planned(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    slim = fxprune.apply(model, plan).train()
    given = x.clone()
    slim(x).square().sum().backward()
    assert all(p.grad is not None for p in slim.parameters()) and torch.equal(given, x)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("name", CASES)
def test_source_file_and_round_trip(name: str, tmp_path: Path) -> None:
    model, x, plan = planned(name)
    slim = fxprune.apply(model, plan)
    fxprune.save(slim, tmp_path / "slim.py")
    back = fxprune.load(tmp_path / "slim.py")
    assert torch.equal(back.eval()(x), slim.eval()(x)) and back.state_dict().keys() == slim.state_dict().keys()


def test_plans_list_branches() -> None:
    model, x, plan = planned("residual")
    assert {b.id: b.kept for b in plan.branches} == {"blocks.0": True, "blocks.1": False, "blocks.2": False, "blocks.3": True}
    document = json.loads(plan.to_json())
    assert document["version"] == 2 and fxprune.Plan.from_json(plan.to_json()).to_json() == plan.to_json()
    plain = fxprune.plan(model, 0.3, x)
    assert json.loads(plain.to_json())["version"] == 1 and "branches" not in plain.to_json()
    assert "blocks.1  goes, with" in plan.summary() and "2 branches stay: may go, and are kept" in plan.summary()
    assert "blocks.1  goes" in str(plain.diff(plan)) and "blocks.1  comes back" in str(plan.diff(plain))
    back = fxprune.revise(model, plan, {"blocks.1": True})
    assert [b.id for b in back.branches if not b.kept] == ["blocks.2"] and back.macs[1] > plan.macs[1]
    both = fxprune.revise(model, plan, merge=back, how="both")
    assert [b.id for b in both.branches if not b.kept] == ["blocks.2"]
    assert fxprune.why(plan, "blocks.1.conv1").status == "pruned" and "residual branch" in str(
        fxprune.why(plan, "blocks.1.conv1")
    )


def test_the_schema_holds(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema reads the schema")
    _, _, plan = planned("residual")
    jsonschema.validate(json.loads(plan.to_json()), fxprune.Plan.schema())


@pytest.mark.parametrize(
    ("name", "message"),
    [("blocks.7", "there is no branch or group 'blocks.7'"), ("head", "there is no branch or group 'head'")],
)
def test_a_plan_of_other_branches_is_refused(name: str, message: str) -> None:
    model, _, plan = planned("residual")
    plan.branches[1].id = name
    with pytest.raises(fxprune.PlanMismatch, match=f"the plan removes what the model does not have: {message}"):
        fxprune.apply(model, plan)


@pytest.mark.parametrize(("key", "value"), [("kept", 1), ("macs", -1), ("tensors", "a"), ("score", "b"), ("id", 3)])
def test_damaged_branches_are_refused(key: str, value: Any) -> None:
    _, _, plan = planned("residual")
    document = json.loads(plan.to_json())
    document["branches"][0][key] = value
    with pytest.raises(fxprune.PlanMismatch, match="the plan is damaged"):
        fxprune.Plan.from_json(json.dumps(document))


def test_revising_what_cannot_go_is_refused() -> None:
    model, _, plan = planned("residual")
    with pytest.raises(fxprune.InputError, match="there is no branch or group 'head' that may go"):
        fxprune.revise(model, plan, {"head": False})


@pytest.mark.parametrize("name", CASES)
def test_a_repair_does_not_worsen(name: str) -> None:
    model, x, plan = planned(name)
    images = torch.randn(64, *x.shape[1:])
    slim = fxprune.repair(fxprune.apply(model, plan), model, images)
    repair = slim.meta["fxprune"].repair
    assert repair.after <= repair.before and repair.repaired
