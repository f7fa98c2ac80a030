"""Policies: which channels go, by scores written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis.analysis import Analysis
from fxprune.errors import InputError
from fxprune.options import PruneOptions
from fxprune.planning.policies import Policy, policy_of, register, registry


class Chain(nn.Module):
    """Two groups: ``one`` of 8 channels and ``two`` of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x).relu()).relu())


@pytest.fixture
def analysis() -> Analysis:
    return fxprune.analyze(Chain(), torch.zeros(1, 3))


# Of both groups the middle channels matter most; all of `two` matter less than any of `one`.
SCORES = {"one.weight": np.array([10.0, 11, 16, 17, 15, 14, 13, 12]), "two.weight": np.array([1.0, 3, 4, 2])}


def chosen(analysis: Analysis, ratio: Any, scope: str = "layer", **options: Any) -> dict[str, list[int]]:
    policy = policy_of(PruneOptions(ratio, scope=scope, **options))
    return {name.split(".")[0]: found.tolist() for name, found in policy.choose(analysis, SCORES).items()}


CHOICES: dict[str, tuple[dict[str, Any], dict[str, list[int]]]] = {
    "layer: each group its half": ({"ratio": 0.5}, {"one": [0, 1, 6, 7], "two": [0, 3]}),
    "layer: what is kept is rounded down": ({"ratio": 0.3}, {"one": [0, 1, 7], "two": [0, 3]}),
    "layer: never all": ({"ratio": 0.9, "max_ratio": 1.0}, {"one": [0, 1, 2, 4, 5, 6, 7], "two": [0, 1, 3]}),
    "layer: at most max_ratio": ({"ratio": 0.9, "max_ratio": 0.25}, {"one": [0, 1], "two": [0]}),
    "layer: kept is a multiple": ({"ratio": 0.3, "round_to": 4}, {"one": [0, 1, 6, 7]}),
    "global: the lowest of all": ({"ratio": 0.25, "scope": "global"}, {"two": [0, 1, 3]}),
    "global: no group loses more than max_ratio": (
        {"ratio": 0.5, "scope": "global", "max_ratio": 0.5},
        {"one": [0, 1, 6, 7], "two": [0, 3]},
    ),
    "global: never all": ({"ratio": 0.5, "scope": "global"}, {"one": [0, 1, 7], "two": [0, 1, 3]}),
    "global: kept is a multiple": ({"ratio": 0.5, "scope": "global", "round_to": 2}, {"one": [0, 1, 6, 7], "two": [0, 3]}),
    "by name: a module": ({"ratio": {"two": 0.5}}, {"two": [0, 3]}),
    "by name: a tensor": ({"ratio": {"one.weight": 0.25}}, {"one": [0, 1]}),
    "by name: the first pattern that matches": ({"ratio": {"o*": 0.25, "*": 0.5}}, {"one": [0, 1], "two": [0, 3]}),
    "by name: spared": ({"ratio": {"one": 0.0, "*": 0.5}}, {"two": [0, 3]}),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_channels_that_go(analysis: Analysis, kind: str) -> None:
    options, expected = CHOICES[kind]
    assert chosen(analysis, **options) == expected


def test_equal_scores_go_in_order(analysis: Analysis) -> None:
    policy = policy_of(PruneOptions(0.5, scope="global"))
    equal = {name: np.ones(len(scores)) for name, scores in SCORES.items()}
    assert {n: c.tolist() for n, c in policy.choose(analysis, equal).items()} == {"one.weight": [0, 1, 2, 3, 4, 5]}


@pytest.mark.parametrize(
    ("ratio", "message"),
    [({"tow": 0.5}, "matches no group that may be pruned.*did you mean 'two'"), ({"head": 0.5}, "matches no group")],
    ids=["misspelt", "a layer that loses nothing"],
)
def test_patterns_that_match_nothing_are_refused(analysis: Analysis, ratio: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen(analysis, ratio)


@pytest.mark.parametrize(
    ("ratio", "options", "expected"),
    [
        (0.75, {}, {"one": [0, 1, 6, 7], "two": [0, 3]}),
        (0.75, {"max_ratio": 0.25}, {"one": [0, 1], "two": [0]}),
        (0.7, {}, {"one": [0, 1], "two": [0, 3]}),
        (0.2, {}, {}),
    ],
)
def test_threshold(analysis: Analysis, ratio: float, options: dict[str, Any], expected: dict[str, list[int]]) -> None:
    """Scores over the maximum of their group; a score that is the ratio itself stays."""
    scores = {"one.weight": np.array([10.0, 11, 16, 17, 15, 14, 12, 11.9]) / 17, "two.weight": np.array([1.0, 3, 4, 2]) / 4}
    found = policy_of(PruneOptions(ratio, scope="threshold", **options)).choose(analysis, scores)
    assert {name.split(".")[0]: channels.tolist() for name, channels in found.items()} == expected


# -- groups that exclude each other ------------------------------------------------------------------------


def test_of_two_factors_the_one_that_costs_less_saliency_gives_up_channels() -> None:
    class Grouped(nn.Module):
        """Channels of the first are 3 groups x 4: one of the two factors goes."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1, groups=3)
            self.head = nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.two(self.one(x)))

    analysis = fxprune.analyze(Grouped(), torch.zeros(1, 3, 4, 4))
    assert analysis.exclusive
    policy = policy_of(PruneOptions(0.5, scope="layer"))
    one = next(iter(analysis.exclusive))
    for cheap in (one, *analysis.exclusive[one]):
        scores = {g.id: np.ones(g.size) for g in analysis.free}
        scores[cheap] = np.linspace(0, 1, len(scores[cheap])) ** 8
        found = policy.choose(analysis, scores)
        assert cheap in found and not analysis.exclusive[cheap] & found.keys()


# -- policies by name --------------------------------------------------------------------------------------


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


@pytest.mark.usefixtures("own_registry")
def test_a_registered_policy_is_used_by_name(analysis: Analysis) -> None:
    @register("first_channels")
    class FirstChannels(Policy):
        def choose(self, analysis: Analysis, scores: Any) -> dict[str, np.ndarray]:
            return {g.id: np.arange(round(g.size * self.options.ratio)) for g in analysis.free}

    assert registry.names() == [*registry._NAMES, "first_channels"]
    assert chosen(analysis, 0.5, "first_channels") == {"one": [0, 1, 2, 3], "two": [0, 1]}
    slim = fxprune.prune(Chain(), 0.5, torch.zeros(1, 3), scope="first_channels")  # type: ignore[arg-type]
    assert slim.meta["fxprune"].plan.group("one.weight").kept == [4, 5, 6, 7]


@pytest.mark.usefixtures("own_registry")
def test_a_name_is_taken_once() -> None:
    with pytest.raises(InputError, match="there is a policy 'layer' already"):
        register("layer")
    register("mine")(Policy)
    with pytest.raises(InputError, match="there is a policy 'mine' already"):
        register("mine")


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InputError, match="scope must be 'global', 'layer', 'isomorphic' or 'threshold', not 'globl'"):
        policy_of(PruneOptions(0.5, scope="globl"))


@pytest.mark.parametrize(("size", "max_ratio", "most"), [(8, 1.0, 7), (8, 0.5, 4), (8, 0.3, 2), (2, 0.95, 1), (1, 1.0, 0)])
def test_the_most_that_a_group_may_lose(size: int, max_ratio: float, most: int) -> None:
    group = fxprune.Group("one", size, ())
    assert Policy(PruneOptions(0.5, max_ratio=max_ratio)).most(group) == most
