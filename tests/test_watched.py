"""Models that no graph can hold: watched while they run, pruned in their own class, compared operator by operator."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import nested
from fxprune.shrinking.watched import comparing, fitting
from fxprune.shrinking.watched.slimming import slim_copy


class Branch(nn.Module):
    """Which of two layers runs is decided by values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.one, self.other, self.head = nn.Conv2d(16, 12, 3), nn.Conv2d(16, 12, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.one(x) if x.mean() > 0.3 else self.other(x).sigmoid()
        return self.head(x.mean((2, 3)))


class Loop(nn.Module):
    """As many steps as values ask for, in a state whose size is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 20
        self.enter, self.step = nn.Linear(6, 20), nn.Linear(20, 20)
        self.gate, self.leave = nn.Linear(20, 1), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        state, steps = x.new_zeros(len(x), self.hidden) + self.enter(x), 0
        while steps < 4 and self.gate(state).sigmoid().mean() < 0.7:
            state, steps = self.step(state).tanh() + state, steps + 1
        return self.leave(state), steps


class Cached(nn.Module):
    """Keys and values of earlier calls are kept in a dict; one number is the size of both."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}
        self.heads, self.dim = 2, 8
        self.q, self.k, self.v, self.out = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = (f(x).view(n, tokens, self.heads, self.dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        if "k" in self.cache and len(self.cache["k"]) == n:
            k, v = torch.cat([self.cache["k"], k], 2), torch.cat([self.cache["v"], v], 2)
        self.cache.update(k=k, v=v)
        y = (q @ k.transpose(-1, -2) / 3).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, tokens, -1))


class Boxes(nn.Module):
    """A detector in small: boxes from a map, those above a score, without those that overlap; then a look at each."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.look = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 5, 1), nn.Linear(16, 10)
        self.last = nn.Linear(10, 2)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            features = self.body(image[None]).relu()
            raw = self.boxes(features)[0].flatten(1).t()
            corners = raw[:, :2].sigmoid() * 8
            boxes = torch.cat([corners, corners + raw[:, 2:4].exp().clamp(max=8)], 1)
            keep = torch.where(raw[:, 4] > raw[:, 4].mean())[0]
            order = keep[raw[keep, 4].argsort(descending=True)]
            kept: list[int] = []
            for i in order[:8].tolist():
                if all((boxes[i, :2] - boxes[j, :2]).abs().sum() > 1 for j in kept):
                    kept.append(i)
            rows = features[0].flatten(1).t()[torch.tensor(kept)]
            found.append({"boxes": boxes[kept], "scores": self.last(self.look(rows).relu())})
        return found


class Sliced(Branch):
    """Half of the channels take another way; where they end is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.half = 6
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.one(x) if x.mean() > 0.3 else self.other(x)
        x = x.mean((2, 3))
        return self.head(x[:, : self.half] * x[:, self.half :])


class Outside(Branch):
    """Some channels go through NumPy."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.one(x) if x.mean() > 0.3 else self.other(x)
        return self.head(torch.from_numpy(x.detach().mean((2, 3)).numpy() * 2))


class ByWidth(Branch):
    """A factor is computed from the number of channels."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.one(x) if x.mean() > 0.3 else self.other(x)
        return self.head(x.mean((2, 3)) / math.sqrt(x.shape[1]))


class OfWidth(Branch):
    """Wide maps take another path."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x.tanh() if x.shape[1] >= 16 else x.sigmoid()
        x = self.one(x) if x.mean() > 0.3 else self.other(x)
        return self.head(x.mean((2, 3)))


class Normed(Branch):
    """A norm over the channels, and a step in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.over = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(self.norm(self.stem(x)).relu(), 0.2, self.training)
        x = self.one(x) if x.mean() > 0.3 else self.other(x)
        return self.head(self.over(x.mean((2, 3))).softmax(-1))


class Experts(nn.Module):
    """Which layer a row goes through is decided by its values."""

    def __init__(self, never: int = 0) -> None:
        super().__init__()
        self.stem, self.choose, self.head = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4 + never))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        chosen = self.choose(x).argmax(1).tolist()
        return self.head(torch.stack([self.experts[k](row) for k, row in zip(chosen, x, strict=True)]))


IMAGES = torch.randn(2, 3, 8, 8)
# network, inputs, layers that lose channels, numbers that are set
CASES: dict[str, tuple[type[nn.Module], Any, set[str], dict[str, set[str]]]] = {
    "branch": (Branch, IMAGES, {"stem", "one", "other"}, {}),
    "loop": (Loop, torch.randn(3, 6), {"enter", "step"}, {"": {"hidden"}}),
    "cache": (Cached, torch.randn(2, 5, 8), {"q", "k", "v"}, {"": {"dim"}}),
    "boxes": (Boxes, ([torch.randn(3, 12, 12), torch.randn(3, 12, 8)],), {"body", "look"}, {}),
    "slices": (Sliced, IMAGES, {"stem", "one", "other"}, {"": {"half"}}),
    "numpy": (Outside, IMAGES, {"stem"}, {}),
    "a size as a number": (ByWidth, IMAGES, {"stem"}, {}),
    "a size that decides": (OfWidth, IMAGES, {"one", "other"}, {}),
    "norms": (Normed, IMAGES, {"stem", "one", "other"}, {}),
}


SLOW = {"cache", "boxes", "slices", "norms", "a size as a number", "a size that decides"}


def pruned(kind: type[nn.Module], inputs: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = kind().eval()
    return model, fxprune.prune(model, 0.5, inputs, form="module", scope="layer")


@functools.cache
def of_case(name: str) -> tuple[nn.Module, Any]:
    return pruned(*CASES[name][:2])


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_a_model_that_no_graph_holds_is_pruned_in_its_own_class(name: str) -> None:
    kind, inputs, layers, numbers = CASES[name]
    model, slim = of_case(name)
    report = slim.meta["fxprune"]
    assert type(slim) is kind and report.plan.options["watched"] and report.checks.passed
    before, after = dict(model.named_parameters()), dict(slim.named_parameters())
    shrunk = {n.rpartition(".")[0] for n, p in after.items() if n.endswith("bias") and p.shape != before[n].shape}
    assert shrunk - {"norm", "over"} == layers
    assert {scope: set(found) for scope, found in report.own_class.settings.items()} == numbers
    assert "was watched while it ran" in report.notes[0]
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    assert nested.tensors(copy.deepcopy(slim).train()(*given))  # trainable
    if name == "a size that decides":
        assert "runs aten" in " ".join(g.reason for g in report.plan.groups)


def test_layers_that_few_inputs_use_follow_too() -> None:
    torch.manual_seed(0)
    _, slim = pruned(Experts, torch.randn(2, 8))
    wide = slim.stem.out_features
    assert wide < 16 and {expert.in_features for expert in slim.experts} == {wide}
    assert slim(torch.randn(64, 8)).shape == (64, 3)


def test_a_layer_that_no_input_uses_is_refused_by_name() -> None:
    with pytest.raises(fxprune.errors.InputError, match=r"uses 'experts\.4\.weight'.* and 1 more"):
        fxprune.prune(Experts(never=1).eval(), 0.5, torch.randn(2, 8), form="module")


@pytest.mark.slow
def test_what_the_model_keeps_is_its_own() -> None:
    model, slim = of_case("cache")
    assert model.cache == {} and slim.cache == {}
    assert (slim.dim, slim.q.out_features) == (4, 8)


def test_masked_by_hand_the_original_gives_the_same() -> None:
    """Without any of the machinery: the removed rows and columns of the original are zeroed, on its own weights."""
    model, slim = of_case("branch")
    kept = slim.meta["fxprune"].plan.kept
    twin = Branch().eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, axes in kept.items():
            tensor = dict(twin.named_parameters()) | dict(twin.named_buffers())
            for axis, ids in axes.items():
                gone = torch.tensor([i for i in range(tensor[name].shape[axis]) if i not in ids])
                if axis == 1:  # what reads the channels, so that no sigmoid(0) counts
                    tensor[name].index_fill_(1, gone, 0)
    found: set[bool] = set()
    for seed in range(6):
        x = torch.randn(3, 3, 9, 9, generator=torch.Generator().manual_seed(seed)) * (1 + 4 * (seed % 2))
        same = [bool(m.norm(m.stem(x)).relu().mean() > 0.3) for m in (twin, slim)]
        if same[0] == same[1]:
            found.add(same[0])
            torch.testing.assert_close(slim(x), twin(x), rtol=1e-4, atol=1e-5)
    assert found


@pytest.mark.parametrize(
    ("name", "words"),
    [("numpy", "leave PyTorch"), pytest.param("a size as a number", "div computes something else", marks=pytest.mark.slow)],
)
def test_frozen_channels_have_their_reason(name: str, words: str) -> None:
    _, slim = of_case(name)
    reasons = " ".join(g.reason for g in slim.meta["fxprune"].plan.groups)
    assert words in reasons, reasons


@pytest.mark.slow
def test_a_plan_makes_the_model_again() -> None:
    model, slim = of_case("loop")
    plan = fxprune.Plan.from_json(slim.meta["fxprune"].plan.to_json())
    for again in (fxprune.apply(model, plan, form="module"), fxprune.shrink(model, plan)):
        assert again.hidden == slim.hidden
        again.load_state_dict(slim.state_dict())
    assert fxprune.shrink(model, slim) is slim


def test_verify_compares_the_slim_model_itself() -> None:
    model, slim = of_case("loop")
    checks = fxprune.verify(model, slim)
    assert checks.passed and checks.permutation_error is not None and checks.masked_error is not None
    other = copy.deepcopy(slim)
    other.leave.register_forward_hook(lambda module, args, output: output * 1.01)
    assert not fxprune.verify(model, other).passed


@pytest.mark.parametrize("what", ["weights", "another channel"])
def test_a_slim_model_that_computes_something_else_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module, cut: Any, *rest: Any) -> nn.Module:
        slim = slim_copy(model, cut, *rest)
        with torch.no_grad():
            if what == "weights":
                slim.head.weight[0, 0] += 0.01
            else:
                slim.stem.weight.copy_(slim.stem.weight.roll(1, 0))
        return slim

    monkeypatch.setattr(comparing, "slim_copy", wrong)
    with pytest.raises((fxprune.errors.NotEquivalent, fxprune.errors.NothingToPrune)):
        pruned(Branch, IMAGES)


def test_groups_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels that an operator tells apart by their place, labelled as if they were alike."""
    from fxprune.labels.table import find, known

    class Summed(Branch):
        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.stem(x)).relu().cumsum(1)
            return self.head((self.one(x) if x.mean() > 0.3 else self.other(x)).mean((2, 3)))

    entry, plain = known("aten::cumsum"), known("aten::clone")
    find(torch.ops.aten.cumsum.default)
    assert entry is not None and plain is not None
    monkeypatch.setattr(entry, "rule", plain.rule)
    monkeypatch.setattr("fxprune.labels.table._FOUND", {})
    with pytest.raises(fxprune.errors.NotEquivalent, match="change places"):
        torch.manual_seed(0)
        # of the first channels alone, so that a comparison of what remains could hold
        fxprune.prune(Summed().eval(), {"stem": 0.5}, IMAGES, form="module")


def test_what_needs_a_graph_is_refused_in_a_sentence() -> None:
    model = Branch().eval()
    for options in ({"memory": 0.5}, {"macs": 0.5, "branches": True}, {"ratio": 0.5, "criterion": "taylor"}):
        with pytest.raises(fxprune.errors.InputError, match="as one graph"):
            fxprune.prune(model, example_inputs=IMAGES, form="module", **options)
    with pytest.raises(fxprune.errors.InputError, match="repair="):
        fxprune.prune(model, 0.5, IMAGES, form="module", repair=IMAGES)


@pytest.mark.slow
def test_budgets_hold() -> None:
    torch.manual_seed(0)
    slim = fxprune.prune(Branch().eval(), example_inputs=IMAGES, form="module", macs=0.5, params=0.6)
    report = slim.meta["fxprune"]
    assert report.macs_after <= 0.5 * report.macs_before and report.params_after <= 0.6 * report.params_before
    assert report.params_after == sum(p.numel() for p in slim.parameters())


def test_inputs_that_the_model_does_not_take_end_in_a_sentence() -> None:
    with pytest.raises(fxprune.errors.InputError, match="cannot be watched while it runs"):
        fxprune.prune(Branch().eval(), 0.5, torch.randn(2, 4, 8, 8), form="module")


def test_trying_stops_where_no_group_explains_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "groups_of_fault", lambda *given: [])
    with pytest.raises(fxprune.errors.NotEquivalent, match="no group of channels explains it"):
        pruned(ByWidth, IMAGES)


class Picked(Branch):
    """Of all places in all maps some are taken by one mask over several axes."""

    def forward(self, x: Tensor) -> Tensor:
        chosen = x.mean(1) > 0
        return self.head(self.one(self.stem(x).relu()).movedim(1, -1)[chosen[:, 1:-1, 1:-1]] + self.other.bias)


def test_a_mask_over_several_axes_keeps_the_others_free() -> None:
    model = Picked()
    del model.norm, model.other.weight
    slim = fxprune.prune(model.eval(), 0.5, IMAGES, form="module", scope="layer")
    assert (slim.stem.out_channels, slim.one.out_channels, len(slim.other.bias)) == (8, 6, 6)
