"""Pruning named submodules of models that cannot be recorded whole."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_equivalent, fingerprint, parameters_of, run
from torch import Tensor, fx, nn

import fxprune
from fxprune.cli.commands import main
from fxprune.proofs.randomize import randomize

X = torch.randn(2, 3, 16, 16)
Maps = namedtuple("Maps", ["fine", "coarse"])


class Body(nn.Module):
    """Two maps, by name; the first convolution's channels are its own affair."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.out_channels = 8
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.fine = nn.Conv2d(width, 8, 3, padding=1)
        self.coarse = nn.Conv2d(width, 8, 3, padding=1, stride=2)

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        x = self.norm(self.stem(x)).relu() * scale
        return OrderedDict(fine=self.fine(x), coarse=self.coarse(x))


class Head(nn.Module):
    """One branch on each of a list of maps; its loss is a method, as in torchvision's RetinaNet."""

    weights = (1.0, 2.0)

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1))
        self.offset = {"scores": 0.5}

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [self.branch(m).flatten(2).mean(2) for m in maps]

    def compute_loss(self, scores: Tensor) -> Tensor:
        return (scores - self.offset["scores"]).square().mean() * self.weights[1]


class Detector(nn.Module):
    """Reads values half way: the positions above a threshold."""

    def __init__(self, body: nn.Module | None = None, head: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body or Body()
        self.head = head or Head()
        self.after = nn.Linear(self.body.out_channels, 3)

    def forward(self, images: list[Tensor]) -> Any:
        maps = self.body(torch.stack(list(images)))
        scores = sum(self.head(list(maps.values())))
        found = maps["fine"].movedim(1, 3)[maps["fine"].mean(1) > 0]
        if self.training:
            return self.head.compute_loss(scores) + self.after(found).mean()
        return scores, self.after(found)


def detector(seed: int = 0) -> Detector:
    return randomize(Detector(), seed)


def images() -> tuple[list[Tensor]]:
    return (list(X),)


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
    fxprune.save(slim.body, tmp_path)
    assert torch.equal(fxprune.load(tmp_path)(X)["fine"], slim.body(X)["fine"])
    with pytest.raises(fxprune.InputError, match=r"get_submodule\('body'\)"):
        fxprune.save(slim, tmp_path)


def test_a_pruned_model_is_pruned_again() -> None:
    once = fxprune.prune(detector(), 0.3, images(), submodules=["body", "head"])
    twice = fxprune.prune(once, 0.3, images(), submodules=["body", "head"])
    assert_equivalent(once, twice, [X], twice.meta["fxprune"].plan.kept)
    assert float(twice.head.compute_loss(torch.ones(3))) == 0.5


# -- what passes between a submodule and the rest ----------------------------------------------------------------------


class Caller(nn.Module):
    """Calls `part` as a function says, after it has read values."""

    def __init__(self, part: nn.Module, call: Any, **more: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.call = call
        for name, module in more.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        x = x * x[x > 0].mean()
        return self.call(self, x)


class Options(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 12)
        self.b = nn.Linear(12, 4)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor, bias: Tensor | None = None, gain: float = 2.0, *, skip: bool = False) -> Tensor:
        x = self.a(x).relu()
        if self.training:
            x = self.drop(x) * 1.0
        x = x if bias is None else x + bias.mean()
        x = self.b(x)
        return x if skip else x * gain


class Containers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 12)
        self.b = nn.Linear(12, 4)

    def forward(self, maps: Any, named: Any, *more: Any, **options: Any) -> Any:
        x = maps.fine + maps.coarse[0] * maps.coarse[1] + sum(named.values()) + more[0] + options["last"]
        return Maps(self.b(self.a(x).relu()), [x])


CALLS = {
    "tensor alone": (Options, lambda m, x: m.part(x)),
    "optional tensor": (Options, lambda m, x: m.part(x, x)),
    "constants": (Options, lambda m, x: m.part(x, gain=3.0, skip=True)),
    "keywords": (Options, lambda m, x: m.part(skip=False, bias=x, x=x)),
    "called twice": (Options, lambda m, x: m.part(x) + m.part(x[:1, :5], gain=2.0).sum()),
    "no object": (Options, lambda m, x: m.part(x[:0]).sum() + m.part(x)),
    "containers": (
        Containers,
        lambda m, x: m.part(Maps(x, [x, 0.5]), OrderedDict(b=x, a=x), x, last=x).fine,
    ),
}


@pytest.mark.parametrize("kind", CALLS)
def test_arguments_of_every_kind(kind: str) -> None:
    part, call = CALLS[kind]
    original = randomize(Caller(part(), call))
    slim = fxprune.prune(original, 0.5, X, submodules="part")
    assert slim.part.a.out_features == 6
    assert_equivalent(original, slim, [X], slim.meta["fxprune"].plan.kept)
    fxprune.apply(original, fxprune.Plan.from_json(slim.meta["fxprune"].plan.to_json()))


def test_the_graph_refuses_other_constants_than_it_was_recorded_with() -> None:
    slim = fxprune.prune(Caller(Options(), lambda m, x: m.part(x)), 0.5, X, submodules="part")
    assert torch.equal(slim.part(X), slim.part(X, gain=2.0, skip=False))
    with pytest.raises(AssertionError, match="another value of gain"):
        slim.part(X, None, 3.0)
    with pytest.raises(AssertionError, match="another value of bias"):
        slim.part(X, X)
    listed = fxprune.prune(detector(), 0.5, images(), submodules="head")
    with pytest.raises(AssertionError, match="another value of maps"):
        listed.head([torch.randn(1, 8, 4, 4)] * 3)


def test_a_weight_that_two_submodules_share_stays_one() -> None:
    shared = Caller(Options(), lambda m, x: m.part(x) + m.twin(x) + m.alias(x), twin=Options(), alias=Options())
    shared.twin.a.weight = shared.part.a.weight
    shared.alias.a = shared.part.a
    original = randomize(shared)
    slim = fxprune.prune(original, 0.5, X, submodules=["part", "twin", "alias"])
    assert slim.twin.a.weight is slim.part.a.weight
    assert slim.alias.a.weight is slim.part.a.weight
    assert slim.part.a.out_features == 6
    assert_equivalent(original, slim, [X], slim.meta["fxprune"].plan.kept)
    assert fxprune.verify(original, slim, latency=False).passed


def test_one_submodule_under_two_names_stays_one() -> None:
    original = Caller(Options(), lambda m, x: m.part(x) + m.again[0](x), again=nn.ModuleList())
    original.again.append(original.part)
    slim = fxprune.prune(randomize(original), 0.5, X, submodules="part")
    assert slim.again[0] is slim.part


# -- errors ------------------------------------------------------------------------------------------------------------


class Wrapped:
    """An object around tensors, as torchvision's ImageList."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


def reads_inside(m: Any, x: Tensor) -> Tensor:
    return m.part(x) + x @ m.part.a.weight.T @ x.new_ones(12, 4)


def tied(m: nn.Module) -> nn.Module:
    m.other = nn.Linear(16, 12)
    m.other.weight = m.part.a.weight
    return m


ERRORS = {
    "no such module": (lambda: detector(), "bodi", r"matches no module.*did you mean 'body'"),
    "never called": (lambda: Caller(Options(), lambda m, x: x), "part", "'part' is never called"),
    "called in parts": (
        lambda: Caller(Options(), lambda m, x: m.part(x) + m.part.b(m.part.a(x))),
        "part",
        "outside of its own forward",
    ),
    "called in several ways": (
        lambda: Caller(Options(), lambda m, x: m.part(x) + m.part(x, gain=5.0)),
        "part",
        "in several ways",
    ),
    "objects": (lambda: Caller(Options(), lambda m, x: m.part(x, Wrapped(x))), "part", "an object of type Wrapped"),
    "no tensor": (lambda: Caller(Options(), lambda m, x: m.part(1.0)), "part", "without any tensor"),
    "tied with the rest": (
        lambda: tied(Caller(Options(), lambda m, x: m.part(x))),
        "part",
        r"'part\.a\.weight' is the same tensor as 'other",
    ),
    "model fails": (lambda: Caller(Options(), lambda m, x: m.part(x[:, :, :, :7])), "part", "fails on the example inputs"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_cannot_be_recorded_gets_one_clear_sentence(kind: str) -> None:
    model, name, message = ERRORS[kind]
    inputs = images() if kind == "no such module" else X
    with pytest.raises(fxprune.InputError, match=message):
        fxprune.prune(model(), 0.5, inputs, submodules=name)


def test_a_result_that_does_not_run_is_refused() -> None:
    model = Caller(Options(), reads_inside)
    with pytest.raises(fxprune.NotEquivalent, match="other than by calling them"):
        fxprune.prune(model, 0.5, X, submodules="part")


def test_settings_that_forward_writes_do_not_go_stale() -> None:
    class Writes(Options):
        limit = 3

        def __init__(self) -> None:
            super().__init__()
            self.rows = 0
            self.unit = 4

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            self.rows = len(x)
            return super().forward(x)

    def call(m: Any, x: Tensor) -> Tensor:
        return m.part(x) * (m.part.rows if reads else m.part.unit * m.part.limit)

    reads = False
    assert fxprune.prune(Caller(Writes(), call), 0.5, X, submodules="part").part.unit == 4
    reads = True
    with pytest.raises(fxprune.NotEquivalent, match="no attribute 'rows'"):
        fxprune.prune(Caller(Writes(), call), 0.5, X, submodules="part")


def test_code_of_the_model_before_pruning_is_not_run_on_parts() -> None:
    slim = fxprune.prune(Caller(nn.Sequential(Options(), nn.Linear(4, 4)), lambda m, x: m.part(x)), 0.5, X, submodules="part")
    with pytest.raises(fxprune.PruneError, match="called by itself"):
        slim.part.get_submodule("0")(X)
    with pytest.raises(fxprune.PruneError, match="called by itself"):
        copy.deepcopy(slim).part.get_submodule("0")(X)


def test_what_pickling_would_break_is_not_pickled(tmp_path) -> None:
    slim = fxprune.prune(detector().eval(), 0.5, images(), submodules=["body"])
    torch.save(slim, tmp_path / "slim.pt")
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "slim.pt", weights_only=False)(X)[1], slim(X)[1])
    listed = fxprune.prune(detector(), 0.5, images(), submodules=["head"])
    with pytest.raises(fxprune.PruneError, match="store its state_dict and the plan"):
        torch.save(listed, tmp_path / "listed.pt")


def test_nothing_to_prune_inside() -> None:
    with pytest.raises(fxprune.NothingToPrune, match="part of the model's output"):
        fxprune.prune(detector(), 0.5, images(), submodules="body.fine")


def test_criteria_that_observe_the_whole_model_are_refused() -> None:
    with pytest.raises(fxprune.InputError, match="reads weights alone"):
        fxprune.prune(detector(), 0.5, images(), criterion="taylor", data=[X], submodules="body")


# -- what a model that cannot be traced whole is told ------------------------------------------------------------------


def test_the_error_names_the_largest_submodules_that_can_be_pruned() -> None:
    with pytest.raises(fxprune.TraceError, match=r"submodules=\['body', 'head'\]"):
        fxprune.prune(detector(), 0.5, images())
    fxprune.prune(detector(), 0.5, images(), submodules=["body", "head"])


def test_the_error_looks_into_submodules_that_cannot_be_traced_either() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = detector()
            self.first = nn.Sequential(nn.Conv2d(3, 9, 1), nn.Conv2d(9, 3, 1))

        def forward(self, x: Tensor) -> Any:
            return self.inner(list(self.first(x)))

    for call in (fxprune.analyze, fxprune.trace):
        with pytest.raises(fxprune.TraceError, match=r"submodules=\['inner.body', 'inner.head', 'first'\]"):
            call(Outer(), X)


def test_the_error_looks_into_a_submodule_that_was_named() -> None:
    outer = Caller(detector(), lambda m, x: m.part(list(x)))
    with pytest.raises(fxprune.TraceError, match=r"submodules=\['part.body', 'part.head'\]"):
        fxprune.prune(outer, 0.5, X, submodules="part")
    fxprune.prune(outer, 0.5, X, submodules=["part.body", "part.head"])


def test_a_model_that_fails_on_its_inputs_is_told_nothing_of_submodules() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(16, 12), nn.Linear(12, 5)), nn.Linear(6, 2))
    with pytest.raises(fxprune.TraceError) as caught:
        fxprune.prune(model, 0.5, X)
    assert "submodules=['" not in str(caught.value)


def test_a_list_of_images_is_one_input() -> None:
    slim = fxprune.prune(detector(), 0.5, list(X), submodules="body")
    assert slim.body.stem.out_channels == 8


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_line_prunes_submodules(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "net.py").write_text("from test_submodules import detector, images\n")
    command = [f"{tmp_path / 'net.py'}:detector", "--input-size", "3x16x16"]

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([*arguments])
        out, err = capsys.readouterr()
        assert not stopped.value.code, err
        return out

    named = ["--submodule", "body", "--submodule", "head.branch", "--out", str(tmp_path / "slim")]
    call("prune", *command, "--ratio", "0.5", *named)
    assert fxprune.load(tmp_path / "slim/body.py")(X)["coarse"].shape == (2, 8, 8, 8)
    assert fxprune.load(tmp_path / "slim/head/branch.py")(torch.randn(2, 8, 4, 4)).shape == (2, 4, 4, 4)
    report = json.loads(call("prune", *command, "--plan", str(tmp_path / "slim/plan.json"), "--json"))
    assert report["model"] == "Detector[body, head.branch]"
    assert "pruned" in call("verify", *command, "--submodule", "body")
    assert "head.branch.0.weight" in call("inspect", *command, "--submodule", "head*")
