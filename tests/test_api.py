"""The verbs on one small network."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from support.api import X, model
from torch import Tensor, nn

import fxprune
from fxprune.codegen.roundtrip import same_result


def test_prune_leaves_the_model_as_it_was() -> None:
    original = model().train()
    original.conv1.weight.grad = torch.ones_like(original.conv1.weight)
    before = copy.deepcopy(original.state_dict())
    tensors = {name: id(p) for name, p in original.named_parameters()}
    slim = fxprune.prune(original, 0.5, X)
    assert original.training
    assert slim.training
    assert {name: id(p) for name, p in original.named_parameters()} == tensors
    assert all(torch.equal(before[k], v) for k, v in original.state_dict().items())
    assert original.conv1.weight.grad is not None
    mine = {p.untyped_storage().data_ptr() for p in original.parameters()}
    assert not mine & {p.untyped_storage().data_ptr() for p in slim.parameters()}


def test_state_dict_keys_stay() -> None:
    original = model()
    assert list(fxprune.prune(original, 0.5, X).state_dict()) == list(original.state_dict())


@pytest.mark.parametrize("criterion", ["l1", "l2", "random", "bn_scale"])
def test_the_same_seed_gives_the_same_plan(criterion: str) -> None:
    texts = {fxprune.plan(model(), 0.5, X, criterion=criterion, seed=3).to_json() for _ in range(2)}
    assert len(texts) == 1


def test_another_seed_gives_another_random_plan() -> None:
    kept = [fxprune.plan(model(), 0.5, X, criterion="random", seed=s).kept for s in (0, 1)]
    assert kept[0] != kept[1]


def test_plan_round_trips_and_applies() -> None:
    original = model()
    plan = fxprune.plan(original, 0.5, X)
    again = fxprune.Plan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json()
    slim, direct = fxprune.apply(original, again), fxprune.prune(original, 0.5, X)
    assert same_result(slim.eval()(X), direct.eval()(X))


def test_a_plan_applies_to_another_checkpoint() -> None:
    plan = fxprune.plan(model(seed=0), 0.5, X)
    slim = fxprune.apply(model(seed=1), plan)
    assert slim.meta["fxprune"].plan.kept == plan.kept


def test_kept_indices_are_those_of_the_weights() -> None:
    original = model()
    slim = fxprune.prune(original, 0.5, X)
    plan, state = slim.meta["fxprune"].plan, original.state_dict()
    for name, axes in plan.kept.items():
        expected = state[name]
        for axis, indices in axes.items():
            assert indices == sorted(indices)
            expected = expected.index_select(axis, torch.tensor(indices))
        assert torch.equal(slim.state_dict()[name], expected)


def test_a_callable_is_a_criterion() -> None:
    def last_first(group: fxprune.Group, tensors: Any) -> Tensor:
        return torch.arange(group.size).float()

    plan = fxprune.plan(model(), 0.5, X, criterion=last_first, scope="layer")
    assert plan.group("stem.weight").kept == list(range(8, 16))


def test_ratio_by_name() -> None:
    plan = fxprune.plan(model(), {"conv1": 0.25}, X)
    assert len(plan.group("conv1.weight").kept) == 12
    assert len(plan.group("stem.weight").kept) == 16


@pytest.mark.parametrize("round_to", [2, 4, 8])
def test_kept_channels_are_a_multiple(round_to: int) -> None:
    plan = fxprune.plan(model(), 0.4, X, round_to=round_to)
    assert all(len(g.kept) % round_to == 0 for g in plan.groups if g.status == "free")


def test_ignored_layers_are_protected_with_the_pattern() -> None:
    plan = fxprune.plan(model(), 0.5, X, ignore=["conv1"])
    group = plan.group("conv1.weight")
    assert (group.status, len(group.kept)) == ("protected", 16)
    assert "conv1" in group.reason
    assert fxprune.why(plan, "conv1").status == "protected"


def test_global_ranking_never_empties_a_layer() -> None:
    original = model()
    with torch.no_grad():
        original.conv1.weight.mul_(1e-6)
    plan = fxprune.plan(original, 0.7, X, criterion=lambda g, t: t[g.members[0].name].flatten(1).norm(dim=1))
    assert len(plan.group("conv1.weight").kept) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    original = model().to(dtype).eval()
    slim = fxprune.prune(original, 0.5, X.to(dtype))
    assert {p.dtype for p in slim.parameters()} == {dtype}
    assert slim(X.to(dtype)).shape == (2, 5)


def test_keyword_inputs() -> None:
    slim = fxprune.prune(model(), 0.5, {"x": X})
    assert slim(x=X).shape == (2, 5)


def test_frozen_parameters_make_no_difference() -> None:
    frozen = model().requires_grad_(False)
    with torch.no_grad():
        slim = fxprune.prune(frozen, 0.5, X)
    assert slim.meta["fxprune"].plan.kept == fxprune.plan(model(), 0.5, X).kept
    assert not any(p.requires_grad for p in slim.parameters())


def test_trace_keeps_the_function_and_both_modes() -> None:
    original = model()
    traced = fxprune.trace(original, X)
    for mode in (True, False):
        assert same_result(copy.deepcopy(original).train(mode)(X), copy.deepcopy(traced).train(mode)(X))


def test_why_names_the_operation_that_decided() -> None:
    answer = fxprune.why(model(), "fc", X)
    assert answer.status == "frozen"
    assert "output" in str(answer)
    assert "conv2.weight" in str(fxprune.why(model(), "stem", X))


def test_verify_measures_and_proves() -> None:
    original = model().double()
    slim = fxprune.prune(original, 0.5, X.double())
    checks = fxprune.verify(original, slim)
    assert checks.passed
    assert checks.flop_counter == checks.macs
    assert json.loads(json.dumps(checks.to_dict()))["passed"] is True


def test_verify_finds_a_wrong_rewrite() -> None:
    original = model().double()
    slim = fxprune.prune(original, 0.5, X.double())
    node = next(n for n in slim.graph.nodes if n.target == "relu")
    node.target = "sigmoid"
    slim.recompile()
    checks = fxprune.verify(original, slim, latency=False)
    assert checks.masked_error is not None
    assert checks.masked_error > 1e-3
    assert not checks.passed


@pytest.mark.filterwarnings("ignore:distutils Version classes:DeprecationWarning")
def test_closed_form_macs_are_those_of_thop() -> None:
    import thop

    def nothing(module: nn.Module, inputs: Any, output: Any) -> None:
        """thop also counts norms: leave them out."""

    original = model().eval()
    macs, _ = thop.profile(copy.deepcopy(original), (X[:1],), custom_ops={nn.BatchNorm2d: nothing}, verbose=False)
    assert fxprune.analyze(original, X).macs() == macs
