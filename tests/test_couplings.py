"""Every network of the table: what theory says of its channels, and that pruning it is right."""

from __future__ import annotations

import copy
import functools
import itertools
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    Channels,
    assert_equivalent,
    assert_permutable,
    assert_same,
    error,
    fingerprint,
    named_tensors,
    parameters_of,
    parse,
    run,
    tensors_of,
    to_double,
)
from networks import NETWORKS, Network, network
from safetensors.torch import load_file, save_file
from torch import nn

import fxprune
from fxprune import codegen
from fxprune.proofs.randomize import randomize

SCOPES = ("layer", "global")

each = pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS.keys())
each_scope = pytest.mark.parametrize("scope", SCOPES)


def model_of(net: Network) -> nn.Module:
    """The network with random values in every parameter, in float64 and train mode."""
    torch.manual_seed(0)
    return randomize(net.build(), 1).double()


def inputs_of(net: Network, batch: int = 2) -> tuple[Any, ...]:
    found: tuple[Any, ...] = to_double(net.inputs(batch))
    return found


@functools.cache
def pruned(net_id: str, scope: str) -> tuple[nn.Module, Any]:
    """The original and its slim half; neither may be changed by a test."""
    net = NETWORKS[net_id]
    model = model_of(net)
    return model, fxprune.prune(model, 0.5, inputs_of(net), scope=scope)


def seeded_run(model: nn.Module, inputs: tuple[Any, ...], training: bool) -> Any:
    """The output in a mode, with the same random numbers each time."""
    model.train(training)
    torch.manual_seed(3)
    with torch.no_grad():
        return model(*copy.deepcopy(inputs))


# -- the table itself --------------------------------------------------------------------------------------


@each
def test_network_is_sound(net: Network) -> None:
    """Its places exist, pairs are of equal length, and it runs in plain PyTorch."""
    model = model_of(net)
    tensors = named_tensors(model)

    def length(place: str) -> int:
        name, axis, cut = parse(place)
        return len(range(tensors[name].shape[axis])[cut])

    assert net.free
    assert all(length(place) for place in (*net.free, *net.frozen, *net.masked, *(net.inexact or ())))
    assert all(length(a) == length(b) > 0 for a, b in net.coupled)
    assert all(length(a) and length(b) for a, b in net.apart)
    for training in (True, False):
        for batch in (2, 3):
            assert all(t.isfinite().all() for t in tensors_of(seeded_run(model, inputs_of(net, batch), training)))


def test_network_names_are_unique() -> None:
    with pytest.raises(ValueError, match="two networks are called 'flip'"):
        network("flip")(nn.Identity)


# -- tracing -----------------------------------------------------------------------------------------------


@each
def test_trace_gives_the_same_bits(net: Network) -> None:
    """In both modes, at the traced batch size and at another."""
    model = model_of(net)
    traced = fxprune.trace(model, inputs_of(net))
    assert set(named_tensors(model)) <= set(named_tensors(traced))
    for training in (False, True):
        for batch in (2, 3):
            inputs = inputs_of(net, batch)
            assert_same(
                seeded_run(copy.deepcopy(model), inputs, training),
                seeded_run(copy.deepcopy(traced), inputs, training),
            )


# -- analysis ----------------------------------------------------------------------------------------------


@each
def test_facts(net: Network) -> None:
    model = model_of(net)
    channels = Channels(fxprune.analyze(model, inputs_of(net)).groups, model)
    for place in net.free:
        assert all(channels.free(place)), f"{place} should be free: {channels.free(place)}"
    for place in net.frozen:
        assert not any(channels.free(place)), f"{place} should be frozen: {channels.free(place)}"
    for a, b in net.coupled:
        assert all(channels.at(a)) and channels.at(a) == channels.at(b), (
            f"{a} and {b} should be coupled: {channels.at(a)} and {channels.at(b)}"
        )
    for a, b in net.apart:
        shared = set().union(*channels.at(a)) & set().union(*channels.at(b))
        assert not shared, f"{a} and {b} should share no channel"
    if net.inexact is not None:
        expected = {group.id for place in net.inexact for group in channels.groups_at(place)}
        assert {g.id for g in channels.groups if g.status == "free" and not g.exact} == expected


@each
def test_groups_are_whole(net: Network) -> None:
    """Ids are unique, sizes agree, and no entry of a tensor is in two channels, but for groups that exclude each other."""
    model = model_of(net)
    analysis = fxprune.analyze(model, inputs_of(net))
    channels = Channels(analysis.groups, model)
    assert len({g.id for g in analysis.groups}) == len(analysis.groups)
    for group in analysis.groups:
        assert all(len(m.indices) == group.size for m in group.members)
        assert bool(group.reason) == (group.status != "free")
    for owner in (owner for owners in channels.owners.values() for owner in owners):
        free = [analysis.groups[number] for number, _ in owner if analysis.groups[number].status == "free"]
        for one, other in itertools.combinations(free, 2):
            assert other.id in analysis.exclusive[one.id]
    assert analysis.graph.number_of_nodes() > 0


@each
def test_permutation_changes_nothing(net: Network) -> None:
    """By hand: the groups of the analysis, permuted in the state of the original."""
    if net.placed:
        pytest.skip("channels of one group are told apart by their place: fxprune's own check covers it")
    model = model_of(net)
    for seed, group in enumerate(fxprune.analyze(model, inputs_of(net)).groups):
        if group.status == "free":
            assert_permutable(model, group, inputs_of(net), seed)


@each
def test_why_names_what_decided(net: Network) -> None:
    """Of every free parameter that it is free; of one that is frozen on all its axes, that it is."""
    model = model_of(net)
    free = {parse(place)[0] for place in (*net.free, *(a for pair in net.coupled for a in pair))}
    for place in net.free:
        assert fxprune.why(model, parse(place)[0], inputs_of(net)).status == "free"
    for place in net.frozen:
        name, _, _ = parse(place)
        if name not in free:
            answer = fxprune.why(model, name, inputs_of(net))
            assert answer.status == "frozen" and all(part[4] for part in answer.parts), str(answer)
    if net.blocked:
        answer = fxprune.why(model, "conv1", inputs_of(net))
        assert answer.status == "frozen" and net.blocked in str(answer), str(answer)


# -- pruning -----------------------------------------------------------------------------------------------


@each
@each_scope
def test_prune_keeps_shapes_and_verifies(net: Network, scope: str) -> None:
    model, slim = pruned(net.id, scope)
    for batch in (2, 3):
        expected, found = run(model, inputs_of(net, batch)), run(slim, inputs_of(net, batch))
        assert [t.shape for t in tensors_of(expected)] == [t.shape for t in tensors_of(found)]
    checks = fxprune.verify(model, slim, latency=False)
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


@each
def test_macs_agree_with_the_counter(net: Network) -> None:
    model, slim = pruned(net.id, "layer")
    checks = fxprune.verify(model, slim, latency=False)
    if any(isinstance(m, nn.RNNBase) for m in model.modules()):
        pytest.skip("the counter of PyTorch does not see recurrent layers")
    assert checks.flop_counter == checks.macs


@each
def test_slim_trains(net: Network) -> None:
    """A loss over all outputs reaches every parameter that it reached before, and a step changes them."""
    model, slim = (copy.deepcopy(m).float().train() for m in pruned(net.id, "layer"))
    inputs = net.inputs(4)
    torch.manual_seed(3)
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


@each
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


@each
def test_plan_applies_again(net: Network) -> None:
    """A plan survives its text, and gives the same bits when applied; the same call gives the same text."""
    model, slim = pruned(net.id, "global")
    text = fxprune.plan(model, 0.5, inputs_of(net)).to_json()
    assert text == slim.meta["fxprune"].plan.to_json()
    again = fxprune.apply(model, fxprune.Plan.from_json(text))
    assert_same(run(slim, inputs_of(net)), run(again, inputs_of(net)))


# -- writing it down ---------------------------------------------------------------------------------------


@each
@each_scope
def test_rebuilt_source_gives_the_same_bits(net: Network, scope: str) -> None:
    _, slim = pruned(net.id, scope)
    if not uses_torch_alone(net):
        with pytest.raises(fxprune.PruneError, match="halve"):
            codegen.rebuild(slim)
        return
    rebuilt = codegen.rebuild(slim)
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == {n: t.shape for n, t in slim.state_dict().items()}
    for training in (False, True):
        for batch in (2, 3):
            inputs = inputs_of(net, batch)
            assert_same(
                seeded_run(copy.deepcopy(slim), inputs, training),
                seeded_run(copy.deepcopy(rebuilt), inputs, training),
            )


FRESH = """
    import importlib.util, sys
    from pathlib import Path
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(1)
    for folder in map(Path, sys.argv[1:]):
        spec = importlib.util.spec_from_file_location("slim_model", folder / "slim.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["slim_model"] = module
        spec.loader.exec_module(module)
        model = module.load().eval()
        inputs = load_file(folder / "inputs.safetensors")
        with torch.no_grad():
            found = model(*(inputs[str(i)] for i in range(len(inputs))))

        def tensors(value):
            if isinstance(value, torch.Tensor):
                return [value]
            values = value.values() if isinstance(value, dict) else value
            return [t for v in values if not isinstance(v, int) for t in tensors(v)]

        outputs = {str(i): t.contiguous() for i, t in enumerate(tensors(found))}
        save_file(outputs, folder / "outputs.safetensors")
    assert not any(name.split(".")[0] == "fxprune" for name in sys.modules)
"""


def save_case(net: Network, folder: Path) -> None:
    _, slim = pruned(net.id, "layer")
    fxprune.save(slim, folder)
    save_file({str(i): t.contiguous() for i, t in enumerate(inputs_of(net))}, folder / "inputs.safetensors")


def run_fresh(folders: list[Path], tmp_path: Path) -> None:
    """Load the files in a process of its own, which cannot import fxprune, and compare the outputs."""
    script = tmp_path / "fresh.py"
    script.write_text(textwrap.dedent(FRESH))
    done = subprocess.run([sys.executable, "-I", str(script), *map(str, folders)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def compare_fresh(net: Network, folder: Path) -> None:
    _, slim = pruned(net.id, "layer")
    found = load_file(folder / "outputs.safetensors")
    for number, expected in enumerate(tensors_of(run(slim, inputs_of(net)))):
        assert_same(expected, found[str(number)])


def uses_torch_alone(net: Network) -> bool:
    return net.id != "custom operator"  # which a file that needs torch alone cannot name


def test_saved_models_run_in_a_fresh_process(tmp_path: Path) -> None:
    """All networks in one process."""
    nets = [net for net in NETWORKS.values() if uses_torch_alone(net)]
    folders = [tmp_path / str(number) for number in range(len(nets))]
    for net, folder in zip(nets, folders, strict=True):
        save_case(net, folder)
    run_fresh(folders, tmp_path)
    for net, folder in zip(nets, folders, strict=True):
        compare_fresh(net, folder)


@pytest.mark.slow
@each
def test_saved_model_runs_in_its_own_process(net: Network, tmp_path: Path) -> None:
    if not uses_torch_alone(net):
        pytest.skip("the operator is made by the tests: a file that needs torch alone cannot name it")
    save_case(net, tmp_path / "slim")
    run_fresh([tmp_path / "slim"], tmp_path)
    compare_fresh(net, tmp_path / "slim")


def test_names_of_graph_module_attributes() -> None:
    """Submodules called `code` or `graph`: they keep their names, or the refusal says why."""

    class Clashing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Linear(6, 8)
            self.graph = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.graph(self.code(x).relu())
            return found

    model = Clashing()
    try:
        slim = fxprune.prune(model, 0.5, torch.randn(2, 6))
    except fxprune.PruneError as refusal:
        assert "code" in str(refusal)
    else:
        assert set(slim.state_dict()) == set(model.state_dict())
        assert_equivalent(model, slim, (torch.randn(2, 6),), slim.meta["fxprune"].plan.kept)


# -- attention policies ------------------------------------------------------------------------------------

ATTENTION = [net for net in NETWORKS.values() if "attention" in net.id.lower() or net.id in ("SDPA", "fused qkv")]


@pytest.mark.parametrize("policy", ["head_dim", "heads", "both", "none"])
@pytest.mark.parametrize("net", ATTENTION, ids=lambda net: net.id)
def test_attention_policies(net: Network, policy: str) -> None:
    model = model_of(net)
    slim = fxprune.prune(model, 0.5, inputs_of(net), scope="layer", attention=policy)
    checks = fxprune.verify(model, slim, latency=False)
    assert checks.passed and not slim.meta["fxprune"].frozen_by_rewrite
    expected, found = run(model, inputs_of(net, 3)), run(slim, inputs_of(net, 3))
    assert error(expected, expected) == 0 and [t.shape for t in tensors_of(expected)] == [t.shape for t in tensors_of(found)]
    kept = slim.meta["fxprune"].plan.kept
    if all(g.exact or not g.removed for g in slim.meta["fxprune"].plan.groups):
        assert_equivalent(model, slim, inputs_of(net, 3), kept, net.masked)
    assert_same(run(slim, inputs_of(net)), run(codegen.rebuild(slim), inputs_of(net)))


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("head_dim", [0, 1, 4, 5, 8, 9]), ("heads", 4), ("both", 2), ("none", 12)],
    ids=["head_dim", "heads", "both", "none"],
)
def test_attention_policy_decides_what_goes(policy: str, kept: Any) -> None:
    """3 heads of 4: half of each head, two of three heads, both, or nothing."""
    net = NETWORKS["fused qkv"]
    model = model_of(net)
    with torch.no_grad():  # in each head the first two of q, k and v weigh most, and the first head most of all
        size = torch.tensor([4.0, 3.0, 1.0, 1.0]).repeat(9) + torch.tensor([3.0, 0.0, 0.0]).repeat_interleave(4).repeat(3)
        model.qkv.weight.copy_(size[:, None].expand_as(model.qkv.weight))
    plan = fxprune.plan(model, 0.5, inputs_of(net), scope="layer", attention=policy)
    found = plan.kept.get("qkv.weight", {}).get(0, list(range(36)))
    if isinstance(kept, list):
        assert found == [12 * part + i for part in range(3) for i in kept]
    else:
        assert len(found) == 3 * kept
