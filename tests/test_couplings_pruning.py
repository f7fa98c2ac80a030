"""Every network of the table: pruning it is right."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import assert_equivalent, assert_same, fingerprint, named_tensors, parameters_of, parse, run, tensors_of
from networks import Network
from support.couplings import each, each_scope, inputs_of, model_of, pruned, some, verified
from torch import nn

import fxprune
from fxprune.tracing.untouched import seed_all


@some
@each_scope
def test_prune_keeps_shapes_and_verifies(net: Network, scope: str) -> None:
    model, slim = pruned(net.id, scope)
    for batch in (2, 3):
        expected, found = run(model, inputs_of(net, batch)), run(slim, inputs_of(net, batch))
        assert [t.shape for t in tensors_of(expected)] == [t.shape for t in tensors_of(found)]
    checks = verified(net.id, scope)
    assert checks.permutation_error is not None and checks.permutation_error < 1e-9
    assert checks.masked_error is not None and checks.masked_error < 1e-9
    assert checks.passed


@each
@each_scope
def test_slim_is_the_masked_original(net: Network, scope: str) -> None:
    """By hand: zeros where removed channels are read, in the original; at two batch sizes."""
    model, slim = pruned(net.id, scope)
    plan = slim.meta["fxprune"].plan
    if any(g.removed and not g.exact for g in plan.groups):
        pytest.skip("a statistic runs over removed channels: no masked original computes it")
    for batch in (2, 3):
        assert_equivalent(model, slim, inputs_of(net, batch), plan.kept, net.masked)


@each
@each_scope
def test_slim_holds_the_kept_slices(net: Network, scope: str) -> None:
    """Each tensor is the original's without what the plan removed; sizes are those that the report gives."""
    model, slim = pruned(net.id, scope)
    plan = slim.meta["fxprune"].plan
    before, after = named_tensors(model), named_tensors(slim)
    assert set(model.state_dict()) == set(slim.state_dict())
    kept_of = {id(before[name]): axes for name, axes in plan.kept.items()}
    for name, tensor in before.items():
        for axis, kept in kept_of.get(id(tensor), {}).items():
            assert kept == sorted(set(kept)) and 0 < len(kept) < before[name].shape[axis]
            tensor = tensor.index_select(axis, torch.tensor(kept))
        assert after[name].shape == tensor.shape
        if tensor.is_floating_point():
            assert torch.equal(after[name], tensor)
        assert after[name].requires_grad == before[name].requires_grad
        shared = [other for other in before if before[other] is before[name]]
        assert all(after[other] is after[name] for other in shared), f"{shared} are no longer one tensor"
    assert parameters_of(slim) == plan.params[1] < plan.params[0] == parameters_of(model)
    assert plan.macs[1] <= plan.macs[0]


@each
def test_every_free_group_shrinks(net: Network) -> None:
    """Layer by layer, half of each group goes, rounded towards keeping less; frozen places stay whole."""
    model, slim = pruned(net.id, "layer")
    plan = slim.meta["fxprune"].plan
    assert not slim.meta["fxprune"].frozen_by_rewrite
    for group in plan.groups:
        assert len(group.kept) == (max(1, group.size // 2) if group.status == "free" else group.size), group.id
    before, after = named_tensors(model), named_tensors(slim)
    for place in net.free:
        name, axis, _ = parse(place)
        assert after[name].shape[axis] < before[name].shape[axis]
    for place in net.frozen:
        name, axis, cut = parse(place)
        if cut == slice(None):
            assert after[name].shape[axis] == before[name].shape[axis]


@some
def test_macs_agree_with_the_counter(net: Network) -> None:
    model, _ = pruned(net.id, "layer")
    checks = verified(net.id, "layer")
    if any(isinstance(m, nn.RNNBase) for m in model.modules()):
        pytest.skip("the counter of PyTorch does not see recurrent layers")
    assert checks.flop_counter == checks.macs


@each
def test_slim_trains(net: Network) -> None:
    """A loss over all outputs reaches every parameter that it reached before, and a step changes them."""
    model, slim = (copy.deepcopy(m).float().train() for m in pruned(net.id, "layer"))
    inputs = net.inputs(4)
    seed_all(3)
    sum(t.square().mean() for t in tensors_of(model(*inputs))).backward()
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(slim.parameters(), lr=0.1)
    sum(t.square().mean() for t in tensors_of(slim(*inputs))).backward()
    expected = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name for name, p in slim.named_parameters() if p.grad is not None} >= expected
    before = [p.detach().clone() for p in slim.parameters()]
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, slim.parameters(), strict=True))
    assert all(t.isfinite().all() for t in tensors_of(slim(*inputs)))


@some
def test_original_is_untouched(net: Network) -> None:
    model = model_of(net)
    sum(t.square().mean() for t in tensors_of(model(*inputs_of(net, 4)))).backward()
    next(model.children()).eval()
    inputs = inputs_of(net)
    before, copies = fingerprint(model), copy.deepcopy(inputs)
    slim = fxprune.prune(model, 0.5, inputs)
    fxprune.verify(model, slim, latency=False)
    assert fingerprint(model) == before
    assert_same(copies, inputs)
    mine = {t.data_ptr() for t in named_tensors(model).values()}
    assert not mine & {t.data_ptr() for t in named_tensors(slim).values()}


@some
def test_plan_applies_again(net: Network) -> None:
    """A plan survives its text, and gives the same bits when applied; the same call gives the same text."""
    model, slim = pruned(net.id, "global")
    text = fxprune.plan(model, 0.5, inputs_of(net)).to_json()
    assert text == slim.meta["fxprune"].plan.to_json()
    again = fxprune.apply(model, fxprune.Plan.from_json(text))
    assert_same(run(slim, inputs_of(net)), run(again, inputs_of(net)))
