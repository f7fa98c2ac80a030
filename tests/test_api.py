"""The public functions: plans as documents, bad input, dtypes, and that the model stays as it was."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.codegen.roundtrip import same_result
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize


class Residual(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(self.norm1(self.conv1(x)).relu()) * scale
        return self.fc(x.mean((2, 3)))


X = torch.randn(2, 3, 8, 8)


def model(width: int = 16, seed: int = 0) -> nn.Module:
    return randomize(Residual(width), seed)


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


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "ratio above 1": (lambda: fxprune.prune(model(), 1.5, X), fxprune.InputError, "between 0 and 1"),
    "ratio 0": (lambda: fxprune.prune(model(), 0.0, X), fxprune.InputError, "between 0 and 1"),
    "ratio NaN": (lambda: fxprune.prune(model(), math.nan, X), fxprune.InputError, "nan"),
    "ratio as text": (lambda: fxprune.prune(model(), "half", X), fxprune.InputError, "half"),
    "criterion": (lambda: fxprune.prune(model(), 0.5, X, criterion="l3"), fxprune.InputError, "did you mean 'l"),
    "scope": (lambda: fxprune.prune(model(), 0.5, X, scope="globel"), fxprune.InputError, "did you mean 'global'"),  # type: ignore[arg-type]
    "ignore": (lambda: fxprune.prune(model(), 0.5, X, ignore=["conv3"]), fxprune.InputError, "did you mean 'conv"),
    "attention": (lambda: fxprune.prune(model(), 0.5, X, attention="head"), fxprune.InputError, "'head'"),  # type: ignore[arg-type]
    "max_ratio": (lambda: fxprune.prune(model(), 0.5, X, max_ratio=0), fxprune.InputError, "max_ratio"),
    "round_to": (lambda: fxprune.prune(model(), 0.5, X, round_to=0), fxprune.InputError, "round_to"),
    "no example": (lambda: fxprune.prune(model(), 0.5), fxprune.InputError, "example_inputs"),
    "example without tensor": (lambda: fxprune.prune(model(), 0.5, [3]), fxprune.InputError, "no tensor"),
    "example of another shape": (lambda: fxprune.prune(model(), 0.5, torch.randn(2, 4, 8, 8)), fxprune.TraceError, "stem"),
    "too many inputs": (lambda: fxprune.prune(model(), 0.5, (X, 1.0, X)), fxprune.InputError, "2 positional inputs"),
    "nothing to prune": (lambda: fxprune.prune(nn.Conv2d(3, 4, 1), 0.5, X), fxprune.NothingToPrune, "output"),
    "not a model": (lambda: fxprune.prune(3, 0.5, X), fxprune.InputError, "nn.Module"),  # type: ignore[arg-type]
    "scores of a wrong shape": (
        lambda: fxprune.prune(model(), 0.5, X, criterion=lambda g, t: torch.ones(3)),
        fxprune.InputError,
        "shape",
    ),
    "scores that are NaN": (
        lambda: fxprune.prune(model(), 0.5, X, criterion=lambda g, t: torch.full((g.size,), math.nan)),
        fxprune.InputError,
        "not finite",
    ),
    "unknown layer": (lambda: fxprune.why(model(), "conv9", X), fxprune.InputError, "did you mean 'conv"),
    "plan for another model": (
        lambda: fxprune.apply(model(8), fxprune.plan(model(), 0.5, X)),
        fxprune.PlanMismatch,
        "names or shapes differ",
    ),
    "text that is no plan": (lambda: fxprune.Plan.from_json("hello"), fxprune.PlanMismatch, "not JSON"),
    "JSON that is no plan": (lambda: fxprune.Plan.from_json('{"a": 1}'), fxprune.PlanMismatch, "format"),
    "damaged plan": (lambda: fxprune.Plan.from_json(damaged()), fxprune.PlanMismatch, "damaged"),
    "slim of something else": (lambda: fxprune.verify(model(), model()), fxprune.InputError, "GraphModule"),  # type: ignore[arg-type]
    "name that GraphModule takes": (lambda: fxprune.prune(Clash(), 0.5, X), fxprune.TraceError, "'code'"),
    "path that depends on data": (lambda: fxprune.prune(DataDependent(), 0.5, X), fxprune.TraceError, "test_api.py"),
}


class Clash(nn.Sequential):
    def __init__(self) -> None:
        super().__init__()
        self.code, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)


class DataDependent(Residual):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def damaged() -> str:
    document = json.loads(fxprune.plan(model(), 0.5, X).to_json())
    document["groups"][0]["kept"] = [5, 2]
    return json.dumps(document)


@pytest.mark.parametrize(("call", "kind", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_clear_sentence(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=r"(?s).*") as caught:
        call()
    assert isinstance(caught.value, fxprune.PruneError)
    assert words in str(caught.value)


def test_constants_that_forward_writes_and_tiles() -> None:
    class Marked(Residual):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            x = self.norm1(self.conv1(self.stem(x)))
            ramp = torch.zeros(1, 1, x.shape[2], x.shape[3])  # names no device
            ramp[:, :, :, 0] = torch.ones(8)
            x = self.conv2(x + ramp).relu() * torch.ones(1, 1, 1).tile([16, 1, 1]).to(x.dtype)
            return self.fc(x.mean((2, 3)))

    original = randomize(Marked()).double().eval()
    slim = fxprune.prune(original, 0.5, X.double(), scope="layer")
    assert len(slim.meta["fxprune"].plan.kept["conv1.weight"][0]) == 8
    assert fxprune.verify(original, slim, latency=False).passed


def test_unknown_operator_is_pruned_around() -> None:
    @torch.library.custom_op("fxprune_tests::twist", mutates_args=())
    def twist(x: Tensor) -> Tensor:
        return x.flip(1) * 2

    @twist.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    class Twisted(Residual):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            x = self.conv2(self.norm1(self.conv1(self.stem(x))).relu())
            return self.fc(twist(x).mean((2, 3)))

    original = randomize(Twisted())
    slim = fxprune.prune(original, 0.5, X)
    plan = slim.meta["fxprune"].plan
    assert len(plan.group("conv1.weight").kept) < 16
    answer = fxprune.why(plan, "conv2")
    assert answer.status == "frozen"
    assert "twist" in str(answer)
    assert "test_api.py" in str(answer)
    assert relative_error(slim.eval()(X).shape, (2, 5)) == 0


def test_importing_is_fast_and_light() -> None:
    code = "import sys, fxprune; print([m for m in ('torch', 'timm', 'torchvision', 'scipy', 'networkx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_pickling_keeps_the_function_or_is_refused(tmp_path: Path) -> None:
    """torch.fx traces a pickled module again, and would freeze the mode of one that asks for it."""
    slim = fxprune.prune(model(), 0.5, X).eval()
    torch.save(slim, tmp_path / "slim.pt")
    assert same_result(torch.load(tmp_path / "slim.pt", weights_only=False)(X), slim(X))

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(nn.functional.dropout(self.one(x), 0.5, self.training))

    slim = fxprune.prune(Dropping(), 0.5, torch.zeros(2, 6))
    with pytest.raises(fxprune.PruneError, match=r"fxprune\.save"):
        torch.save(slim, tmp_path / "dropping.pt")
    assert copy.deepcopy(slim).eval()(torch.zeros(2, 6)).shape == (2, 4)
