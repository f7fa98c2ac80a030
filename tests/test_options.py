"""`PruneOptions`: what is refused, in one clear sentence, and the way to JSON and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import fxprune
from fxprune.errors import InputError
from fxprune.options import PruneOptions, check_attention

RATIO = "ratio must be a fraction of the prunable channels between 0 and 1"

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "ratio of nothing": ({"ratio": 0}, RATIO),
    "ratio of all": ({"ratio": 1}, RATIO),
    "negative ratio": ({"ratio": -0.5}, RATIO),
    "ratio in percent": ({"ratio": 50}, RATIO),
    "ratio in words": ({"ratio": "half"}, RATIO),
    "ratio that is no number": ({"ratio": float("nan")}, RATIO),
    "ratio by truth": ({"ratio": True}, RATIO),
    "ratio by name, all of it": ({"ratio": {"conv*": 1.0}}, RATIO),
    "no share left": ({"max_ratio": 0}, "max_ratio must be a fraction in (0, 1]"),
    "more than all": ({"max_ratio": 1.5}, "max_ratio must be a fraction in (0, 1]"),
    "share that is no number": ({"max_ratio": float("nan")}, "max_ratio must be a fraction in (0, 1]"),
    "multiple of nothing": ({"round_to": 0}, "round_to must be 'auto', a whole number of at least 1"),
    "multiple of a part": ({"round_to": 8.0}, "round_to must be 'auto', a whole number of at least 1"),
    "multiple by truth": ({"round_to": True}, "round_to must be 'auto', a whole number of at least 1"),
    "unknown normalization": ({"normalization": "mx"}, "'gaussian' or 'none', not 'mx' (did you mean 'max'?)"),
    "normalization that is no text": ({"normalization": 1}, "normalization must be 'max', 'mean'"),
    "unknown attention": ({"attention": "head"}, "did you mean 'heads'?"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_values_out_of_range_are_refused(kind: str) -> None:
    options, message = REFUSED[kind]
    with pytest.raises(InputError) as caught:
        PruneOptions(**{"ratio": 0.5, **options})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.01},
        {"ratio": {"conv*": 0.0, "fc": 0.5}},
        {"max_ratio": 1},
        {"round_to": 64},
        {"attention": "none"},
        {"normalization": "none"},
    ],
    ids=str,
)
def test_values_at_the_ends_are_taken(options: dict[str, Any]) -> None:
    made = PruneOptions(**{"ratio": 0.5, **options})
    assert all(getattr(made, name) == value for name, value in options.items())


@pytest.mark.parametrize("policy", ["head_dim", "heads", "both", "none"])
def test_attention_policies_have_names(policy: str) -> None:
    assert check_attention(policy) == policy


@pytest.mark.parametrize("policy", ["all", "", None, 3])
def test_other_attention_policies_are_refused(policy: Any) -> None:
    with pytest.raises(InputError, match="attention must be 'head_dim', 'heads', 'both' or 'none'"):
        check_attention(policy)


@pytest.mark.parametrize(
    ("given", "stored"),
    [("fc", ("fc",)), (["a", "b"], ("a", "b")), (iter("ab"), ("a", "b")), ((), ())],
    ids=["one name", "list", "iterator", "none"],
)
def test_names_to_ignore_become_a_tuple(given: Any, stored: tuple[str, ...]) -> None:
    assert PruneOptions(0.5, ignore=given).ignore == stored


class Scorer:
    """A criterion without a name of its own."""

    def __call__(self, group: Any, tensors: Any) -> None: ...


def smallest(group: Any, tensors: Any) -> None: ...


@pytest.mark.parametrize(
    ("criterion", "name"), [("l1", "l1"), (smallest, "smallest"), (Scorer(), "Scorer")], ids=["name", "function", "object"]
)
def test_a_criterion_has_a_name(criterion: Any, name: str) -> None:
    assert PruneOptions(0.5, criterion).criterion_name == name
    assert PruneOptions(0.5, criterion).to_json()["criterion"] == name


@pytest.mark.parametrize(
    "options",
    [
        PruneOptions(0.5),
        PruneOptions({"conv*": 0.3, "fc": 0.0}, "taylor", "layer", ("head",), 0.8, 8, "both", 7),
    ],
    ids=["defaults", "all set"],
)
def test_json_round_trip(options: PruneOptions) -> None:
    assert PruneOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_json_may_name_more_and_less() -> None:
    assert PruneOptions.from_json({"ratio": 0.5, "submodules": ["body"]}) == PruneOptions(0.5)


@pytest.mark.parametrize(
    ("document", "message"),
    [({}, "name no ratio"), ({"ratio": 2}, RATIO), ({"ratio": 0.5, "round_to": "8"}, "round_to")],
    ids=str,
)
def test_damaged_json_is_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PruneOptions.from_json(document)


def test_options_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PruneOptions(0.5).ratio = 0.6  # type: ignore[misc]


@pytest.mark.parametrize("change", [{"attention": "all"}, {"ratio": 2}, {"ignore": 3}, {"round_to": "four"}], ids=str)
def test_a_plan_with_damaged_options_is_refused(change: dict[str, object]) -> None:
    model, x = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 2)), torch.zeros(1, 8)
    plan = fxprune.plan(model, 0.5, x)
    plan.options |= change
    with pytest.raises(fxprune.PlanMismatch, match="the plan's options are damaged"):
        fxprune.apply(model, plan)
