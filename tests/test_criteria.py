"""The protocol of criteria: options, names, registration, user callables, entry points."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune import criteria
from fxprune.analysis.groups import Group, Member
from fxprune.criteria import registry
from fxprune.criteria.base import Criterion, normalize, reduce
from fxprune.criteria.magnitude import L1, L2
from fxprune.errors import InputError


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {})
    yield


def two_layers() -> tuple[Group, dict[str, torch.Tensor]]:
    """A group of 3 channels: two producers, one consumer that reads each channel twice."""
    tensors = {"a.weight": torch.randn(3, 4), "b.weight": torch.randn(3, 2, 3, 3), "c.weight": torch.randn(5, 6)}
    one, two = np.arange(3)[:, None], np.array([[0, 3], [1, 4], [2, 5]])
    members = (
        Member("a.weight", 0, one, "producer"),
        Member("b.weight", 0, one, "producer"),
        Member("c.weight", 1, two, "consumer"),
    )
    return Group("a.weight", 3, members), tensors


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", [1.5, 4.0]), ("sum", [3.0, 8.0]), ("max", [2.0, 7.0]), ("first", [1.0, 7.0]), ("rank", [0.75, 0.75])],
)
def test_reductions(how: Any, expected: list[float]) -> None:
    assert reduce(torch.tensor([[1.0, 7.0], [2.0, 1.0]]), how).tolist() == expected


def test_ranks_do_not_see_the_size_of_scores_and_ties_share_one() -> None:
    places = torch.tensor([[0.0, 0.0, 3.0, 2.0], [100.0, 900.0, 300.0, 200.0]])
    expected = [(1.5 + 1) / 8, (1.5 + 4) / 8, (4 + 3) / 8, (3 + 2) / 8]
    assert reduce(places, "rank").tolist() == pytest.approx(expected)
    assert reduce(places * torch.tensor([[1e6], [1e-6]]), "rank").tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [1.0, 3.0]),
        ("mean", [0.5, 1.5]),
        ("max", [1 / 3, 1.0]),
        ("l2", [0.1**0.5, 0.9**0.5]),
        ("gaussian", [-1.0, 1.0]),
    ],
)
def test_normalisations(how: Any, expected: list[float]) -> None:
    assert normalize(torch.tensor([1.0, 3.0]).double(), how).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("how", ["mean", "max", "l2", "gaussian"])
def test_a_group_without_any_score_stays_at_zero(how: Any) -> None:
    assert normalize(torch.zeros(3), how).tolist() == [0, 0, 0]


@pytest.mark.parametrize("how", ["mean", "max", "l2", "gaussian"])
def test_normalisation_keeps_the_order_of_negative_scores(how: Any) -> None:
    scores = torch.tensor([-3.0, 0.5, -1.0, 0.25])
    assert normalize(scores, how).argsort().tolist() == scores.argsort().tolist()


def test_groups_are_divided_by_their_maximum_unless_it_does_not_suit() -> None:
    others = {n: made.normalization for n in registry._NAMES if (made := criteria.resolve(n)).normalization != "max"}  # type: ignore[attr-defined]
    assert others == {"bn_relu": "none", "cpmc": "none", "lamp": "none", "random": "none", "surgeon": "none"}
    group, tensors = two_layers()
    found, raw = (L2(normalization=n)(group, tensors) for n in (None, "none"))  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx((raw / raw.max()).tolist())


def test_members_are_reduced() -> None:
    group, tensors = two_layers()
    a, b = tensors["a.weight"].abs().sum(1), tensors["b.weight"].abs().sum((1, 2, 3))
    for how, expected in (("first", a), ("sum", a + b), ("mean", (a + b) / 2), ("max", torch.maximum(a, b))):
        score = L1(reduction=how, normalization="none")(group, tensors)  # type: ignore[arg-type]
        assert score.tolist() == pytest.approx(expected.tolist())


def test_consumers_count_when_asked_for() -> None:
    group, tensors = two_layers()
    read = tensors["c.weight"].abs().reshape(5, 2, 3).sum((0, 1))
    alone = L1(reduction="sum", normalization="none")(group, tensors)
    both = L1(reduction="sum", normalization="none", consumers=True)(group, tensors)
    assert (both - alone).tolist() == pytest.approx(read.tolist())


def test_a_group_without_producers_asks_everyone() -> None:
    member = Member("scale", 0, np.arange(3)[:, None], "affine")
    score = L2(normalization="none")(Group("scale", 3, (member,)), {"scale": torch.tensor([1.0, -2.0, 3.0])})
    assert score.tolist() == [1, 2, 3]


@pytest.mark.parametrize("options", [{"reduction": "median"}, {"normalization": "l3"}])
def test_unknown_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"must be '.*' or '.*', not"):
        criteria.resolve("l1", **options)


def test_half_precision_weights_are_scored_in_single() -> None:
    group, tensors = two_layers()
    exact = L2()(group, tensors)
    for dtype in (torch.float16, torch.bfloat16):
        rough = L2()(group, {n: t.to(dtype) for n, t in tensors.items()})
        assert rough.tolist() == pytest.approx(exact.tolist(), rel=2e-2)


# -- names ---------------------------------------------------------------------------------------------------------------


def test_every_name_makes_a_criterion() -> None:
    assert criteria.names() == sorted(criteria.names())
    for name in registry._NAMES:
        made = criteria.resolve(name, seed=3)
        assert isinstance(made, Criterion) and made.seed == 3
        doc = type(made).__doc__
        assert doc and len(doc) > 40


def test_options_reach_the_criterion() -> None:
    assert criteria.resolve("l1", reduction="max").reduction == "max"  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="cannot be made with these options"):
        criteria.resolve("l1", no_such_option=1)


def test_a_wrong_name_says_which_is_meant() -> None:
    with pytest.raises(InputError, match="did you mean 'fpgm'"):
        criteria.resolve("fgpm")


def test_a_registered_function_prunes() -> None:
    @criteria.register("first_weight")
    def first_weight(group: Group, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        member = group.members[0]
        return tensors[member.name].movedim(member.axis, 0).flatten(1)[member.indices[:, 0], 0]

    assert "first_weight" in criteria.names()
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    slim = fxprune.prune(model, 0.5, torch.randn(2, 3), criterion="first_weight")
    kept = model[0].weight[:, 0].argsort()[2:].sort().values
    assert torch.equal(slim.get_parameter("0.weight"), model[0].weight[kept])


def test_a_registered_class_takes_options() -> None:
    @criteria.register("negative_l1")
    class NegativeL1(L1):
        def score(self, weights: torch.Tensor) -> torch.Tensor:
            return -super().score(weights)

    made = criteria.resolve("negative_l1", normalization="none")
    group, tensors = two_layers()
    assert torch.equal(made(group, tensors), -L1(normalization="none")(group, tensors))


def test_a_taken_or_odd_name_is_refused() -> None:
    for name in ("l1", "not a name"):
        with pytest.raises(InputError):
            criteria.register(name)


def test_a_function_takes_no_options() -> None:
    criteria.register("plain")(lambda group, tensors: torch.zeros(group.size))
    with pytest.raises(InputError, match="takes no options"):
        criteria.resolve("plain", reduction="max")
    with pytest.raises(InputError, match="need the name"):
        criteria.resolve(L1(), reduction="max")


def test_entry_points_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("theirs", "fxprune.criteria.magnitude:L1", "fxprune.criteria")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == "fxprune.criteria" else [])
    assert "theirs" in criteria.names()
    assert isinstance(criteria.resolve("theirs"), L1)


def test_a_criterion_that_needs_data_says_so() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    analysis = fxprune.analyze(model, torch.randn(2, 3))
    made = criteria.resolve("apoz")
    with pytest.raises(InputError, match="pass data"):
        criteria.prepare(made, model, analysis)
    with pytest.raises(InputError, match="has not observed"):
        made(analysis.free[0], {})
    criteria.prepare(made, model, analysis, [torch.randn(2, 3)])
    criteria.prepare(made, model, analysis)  # has seen it
    assert made(analysis.free[0], {}).shape == (4,)
    criteria.prepare(criteria.resolve("l1"), model, analysis)  # needs nothing
