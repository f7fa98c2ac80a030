"""Models whose submodules are pruned, the rest of which cannot be traced."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import assert_equivalent, fingerprint, parameters_of, run
from support.submodules import Body, Detector, Head, X, detector, images
from torch import fx

import fxprune


def test_the_result_is_the_masked_model() -> None:
    original = detector()
    slim = fxprune.prune(original, 0.5, images(), submodules=["body", "head"])
    assert_equivalent(original, slim, [X], slim.meta["fxprune"].plan.kept)
    assert parameters_of(slim) < 0.6 * parameters_of(original)


def test_the_result_is_a_copy_of_the_model_with_graphs_in_it() -> None:
    original = detector()
    before = fingerprint(original)
    slim = fxprune.prune(original, 0.5, images(), submodules=["body"])
    assert fingerprint(original) == before
    assert type(slim) is Detector
    assert isinstance(slim.body, fx.GraphModule)
    assert type(slim.head) is Head
    assert list(slim.state_dict()) == list(original.state_dict())
    mine = {t.untyped_storage().data_ptr() for t in original.state_dict().values()}
    assert not mine & {t.untyped_storage().data_ptr() for t in slim.state_dict().values()}


def test_what_the_rest_reads_keeps_its_channels() -> None:
    plan = fxprune.plan(detector(), 0.5, images(), submodules="body")
    assert set(plan.kept) >= {"body.stem.weight", "body.norm.running_mean", "body.fine.weight"}
    assert list(plan.kept["body.fine.weight"]) == [1]
    assert "part of the model's output" in str(fxprune.why(plan, "body.fine"))


def test_it_trains_and_keeps_its_modes() -> None:
    slim = fxprune.prune(detector().train(), 0.5, images(), submodules=["body", "head"])
    assert slim.training and slim.body.training and slim.body.norm.training
    mean = slim.body.norm.running_mean.clone()
    slim(images()[0]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in slim.parameters())
    assert not torch.equal(mean, slim.body.norm.running_mean)
    assert not fxprune.prune(detector().eval(), 0.5, images(), submodules="body").body.norm.training


def test_other_methods_and_settings_of_a_submodule_stay() -> None:
    original = detector()
    slim = fxprune.prune(original, 0.5, images(), submodules=["body", "head"])
    assert slim.body.out_channels == 8
    assert slim.head.weights == (1.0, 2.0)
    slim.head.offset["scores"] = 7.0
    assert original.head.offset["scores"] == 0.5
    assert torch.equal(copy.deepcopy(slim).head.compute_loss(torch.ones(3)), torch.tensor(72.0))
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = slim.head.absent


def test_a_deep_copy_is_a_model_of_its_own() -> None:
    slim = fxprune.prune(detector(), 0.5, images(), submodules=["body", "head"]).eval()
    twin = copy.deepcopy(slim)
    expected = slim(images()[0])
    with torch.no_grad():
        slim.body.stem.weight.zero_()
    assert torch.equal(twin(images()[0])[0], expected[0])
    assert twin.meta["fxprune"].plan.kept == slim.meta["fxprune"].plan.kept


def test_one_ranking_runs_over_all_submodules() -> None:
    original = detector()
    with torch.no_grad():
        original.head.branch[0].weight[:10] *= 0.001
        original.head.branch[2].weight[:, :10] *= 0.001
    plan = fxprune.plan(original, 0.3, images(), submodules=["body", "head"])
    removed = {g.id: g.removed for g in plan.groups if g.removed}
    assert removed == {"head.branch.0.weight": list(range(10))}
    layered = fxprune.plan(original, 0.5, images(), submodules=["body", "head"], scope="layer")
    assert {len(g.kept) for g in layered.groups if g.status == "free"} == {8}


def test_globs_name_submodules_and_the_outermost_counts() -> None:
    slim = fxprune.prune(detector(), 0.5, images(), submodules=["head*", "body"])
    assert [e["name"] for e in slim.meta["fxprune"].plan.options["submodules"]] == ["body", "head"]
    deep = fxprune.prune(detector(), 0.5, images(), submodules=["head.branch", "body"])
    assert isinstance(deep.head.branch, fx.GraphModule)


def test_plans_are_stored_and_applied() -> None:
    original = detector()
    slim = fxprune.prune(original, 0.5, images(), submodules=["body", "head"])
    plan = fxprune.Plan.from_json(slim.meta["fxprune"].plan.to_json())
    fresh = fxprune.apply(detector(seed=1), plan)
    assert type(fresh) is Detector
    fresh.load_state_dict(slim.state_dict())
    assert torch.equal(run(fresh, images())[1], run(slim, images())[1])
    with pytest.raises(fxprune.PlanMismatch, match="does not have"):
        fxprune.apply(Body(), plan)
    with pytest.raises(fxprune.PlanMismatch, match="names or shapes differ"):
        fxprune.apply(Detector(Body(width=20)), plan)


def test_verify_proves_the_submodules() -> None:
    original = detector()
    slim = fxprune.prune(original, 0.5, images(), submodules=["body", "head"])
    checks = fxprune.verify(original, slim, latency=False)
    assert checks.passed
    assert checks.flop_counter == checks.macs
    assert fxprune.verify(original, slim, ([X[0]] * 3,), latency=False).passed
    slim.body.graph.find_nodes(op="call_method", target="relu")[0].target = "sigmoid"
    slim.body.recompile()
    assert not fxprune.verify(original, slim, latency=False).passed


def test_why_answers_by_names_of_the_whole_model() -> None:
    original = detector()
    assert fxprune.why(original, "head.branch.0", images(), submodules="head").status == "free"
    slim = fxprune.prune(original, 0.5, images(), submodules=["body"])
    assert fxprune.why(slim, "body.stem").status == "pruned"


def test_a_submodule_is_saved_and_the_whole_says_how(tmp_path) -> None:
    slim = fxprune.prune(detector(), 0.5, images(), submodules=["body", "head"]).eval()
    fxprune.save(slim.head, tmp_path)
    source = (tmp_path / "slim.py").read_text()
    assert source.count("self.branch = nn.Sequential(") == 1 and "Written as one forward" not in source
    maps = [*slim.body(X).values()]
    assert all(map(torch.equal, fxprune.load(tmp_path)(maps), slim.head(maps)))
    fxprune.save(slim.body, tmp_path)
    assert torch.equal(fxprune.load(tmp_path)(X)["fine"], slim.body(X)["fine"])
    with pytest.raises(fxprune.InputError, match=r"get_submodule\('body'\)"):
        fxprune.save(slim, tmp_path)


def test_a_pruned_model_is_pruned_again() -> None:
    once = fxprune.prune(detector(), 0.3, images(), submodules=["body", "head"])
    twice = fxprune.prune(once, 0.3, images(), submodules=["body", "head"])
    assert_equivalent(once, twice, [X], twice.meta["fxprune"].plan.kept)
    assert float(twice.head.compute_loss(torch.ones(3))) == 0.5
