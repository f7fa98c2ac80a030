"""Plans that people read, compare, change and put together; the schema that says what is in their JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import InputError, PlanMismatch

X = torch.zeros(1, 3, 12, 12)


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.GroupNorm(1, 24), nn.ReLU(), nn.Conv2d(24, 4, 1)
    )


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build().eval()


@pytest.fixture(scope="module")
def plan(model: nn.Module) -> fxprune.Plan:
    return fxprune.plan(model, 0.5, X, scope="layer")


def test_a_summary_tells_costs_options_and_groups(plan: fxprune.Plan, model: nn.Module) -> None:
    lines = plan.summary().splitlines()
    assert lines[0].startswith("Sequential: ") and "kept)" in lines[0]
    assert "ratio=0.5" in lines[1] and "scope=layer" in lines[1]
    assert lines[2].split() == ["0.weight", "16", "->", "8", "50%"]
    assert lines[3].split() == ["2.weight", "24", "->", "12", "50%", "statistics", "change"]
    assert lines[4].startswith("  1 whole: frozen, ")
    assert "... and 1 more" in plan.summary(rows=1)
    within = fxprune.plan(model, example_inputs=X, params=0.5).summary()
    assert "budget 0.5" in within and "by params=0.5, scope=global" in within


def test_a_difference_tells_channels_and_options(plan: fxprune.Plan, model: nn.Module) -> None:
    other = fxprune.plan(model, {"0": 0.25, "2": 0.5}, X, scope="layer")
    found = plan.diff(other)
    assert [(g.id, g.kept) for g in found.groups] == [("0.weight", (8, 12))]
    assert found.groups[0].only[0] == [] and len(found.groups[0].only[1]) == 4
    assert found.options == {"ratio": (0.5, {"0": 0.25, "2": 0.5})} and found.macs == (plan.macs[1], other.macs[1])
    assert "0.weight  keeps 8 -> 12 of 16: 0 go, 4 come back" in str(found) and "ratio: 0.5 -> {" in str(found)
    assert str(plan.diff(plan)) == "both plans keep the same channels"
    stranger = fxprune.plan(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), 0.5, torch.zeros(1, 4))
    with pytest.raises(PlanMismatch, match="different models"):
        plan.diff(stranger)


def test_a_revised_plan_is_applied_like_any_other(plan: fxprune.Plan, model: nn.Module) -> None:
    before = plan.to_json()
    new = fxprune.revise(model, plan, {"0": 12, "2.weight": [0, 1, 5]})
    assert plan.to_json() == before and new.options["revised"]
    best = sorted(sorted(range(16), key=lambda c: plan.group("0.weight").scores[c])[4:])
    assert new.group("0.weight").kept == best and new.group("2.weight").kept == [0, 1, 5]
    slim = fxprune.apply(model, fxprune.Plan.from_json(new.to_json()))
    assert slim.get_submodule("2").weight.shape == (3, 12, 3, 3)
    assert torch.equal(slim.get_submodule("2").weight, model[2].weight[[0, 1, 5]][:, best])
    assert new.params[1] == sum(p.numel() for p in slim.parameters())
    assert all(len(g.kept) == g.size for g in fxprune.revise(model, plan, {"*": 16, "2*": 24}).groups)


def test_a_plan_that_was_edited_as_text_is_settled(plan: fxprune.Plan, model: nn.Module) -> None:
    document = json.loads(plan.to_json())
    next(g for g in document["groups"] if g["id"] == "0.weight")["kept"] = [0, 1, 2]
    edited = fxprune.Plan.from_json(json.dumps(document))
    with pytest.raises(PlanMismatch, match=r"settle it: fxprune.revise\(model, plan\)"):
        fxprune.apply(model, edited)
    slim = fxprune.apply(model, fxprune.revise(model, edited))
    assert slim.get_submodule("0").out_channels == 3 and slim.get_submodule("2").out_channels == 12


def test_plans_are_merged(plan: fxprune.Plan, model: nn.Module) -> None:
    one, other = (fxprune.revise(model, plan, {"0": kept}) for kept in ([0, 1, 2], [2, 3]))
    either, both = (fxprune.revise(model, one, merge=other, how=how) for how in ("either", "both"))
    assert either.group("0.weight").kept == [2] and both.group("0.weight").kept == [0, 1, 2, 3]
    assert either.group("2.weight").kept == plan.group("2.weight").kept
    apart = fxprune.revise(model, plan, {"0": [9]})
    with pytest.raises(InputError, match=r"nothing would be left of group '0.weight'"):
        fxprune.revise(model, one, merge=apart)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"conv": 3}, "'conv' is no group that may be pruned"),
        ({"5": 3}, "'5' is no group that may be pruned: '5.weight' is frozen"),
        ({"0": 0}, "has 16 channels and cannot keep 0"),
        ({"0": 17}, "cannot keep 17"),
        ({"0": []}, "must keep some of its 16 channels"),
        ({"0": [0, 0]}, "each once"),
        ({"0": [16]}, "by number"),
        ({"0": [True]}, "by number"),
        ({"0": 2.5}, "what '0.weight' keeps must be a list"),
        ([1], "kept must map names"),
    ],
    ids=["no layer", "frozen", "none", "too many", "empty", "twice", "beyond", "truth", "part", "no mapping"],
)
def test_changes_that_cannot_be_are_refused(plan: fxprune.Plan, model: nn.Module, kept: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        fxprune.revise(model, plan, kept)
    assert message in str(caught.value)
    with pytest.raises(InputError, match="how must be 'either' or 'both'"):
        fxprune.revise(model, plan, merge=plan, how="all")  # type: ignore[arg-type]


def test_without_scores_a_number_is_not_enough(plan: fxprune.Plan, model: nn.Module) -> None:
    document = json.loads(plan.to_json())
    for group in document["groups"]:
        group["scores"] = None
    with pytest.raises(PlanMismatch, match=r"no scores of group '0.weight': say which channels"):
        fxprune.revise(model, fxprune.Plan.from_json(json.dumps(document)), {"0": 3})


# -- the schema --------------------------------------------------------------------------------------------

_KINDS: dict[str, Any] = {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None)}


def faults(value: Any, schema: dict[str, Any], where: str = "plan") -> list[str]:
    """Where a document is not as the schema says: the keywords that ours uses."""
    if "const" in schema or "enum" in schema:
        return [] if value in schema.get("enum", [schema.get("const")]) else [where]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    right = any(
        type(value) in ((int, float) if kind == "number" else (int,))
        if kind in ("number", "integer")
        else isinstance(value, _KINDS[kind])
        for kind in kinds
    )
    if not right or (type(value) is int and value < schema.get("minimum", value)):
        return [where]
    if isinstance(value, list):
        each = [*schema.get("prefixItems", ()), *[schema.get("items", {})] * len(value)]
        few = len(value) < schema.get("minItems", 0) or len(value) > schema.get("maxItems", len(value))
        return [where] * few + [f for i, v in enumerate(value) if each[i] for f in faults(v, each[i], f"{where}[{i}]")]
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        found = [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, part in value.items():
            inner = known.get(name, rest)
            found += [f"{where}.{name} is unknown"] * (inner is False)
            found += faults(part, inner, f"{where}.{name}") if isinstance(inner, dict) else []
        return found
    return []


def test_plans_are_as_the_schema_says(plan: fxprune.Plan, model: nn.Module) -> None:
    schema = fxprune.Plan.schema()
    for each in (plan, fxprune.plan(model, example_inputs=X, macs=0.5), fxprune.revise(model, plan)):
        assert faults(json.loads(each.to_json()), schema) == []
    document = json.loads(plan.to_json())
    document["groups"][0]["kept"], document["more"] = ["first"], 1
    del document["model"]
    assert faults(document, schema) == ["plan.model is missing", "plan.groups[0].kept[0]", "plan.more is unknown"]


def test_the_schema_is_published_as_it_is() -> None:
    from pathlib import Path

    file = Path(__file__).resolve().parents[1] / "docs" / "pages" / "reference" / "plan.schema.json"
    assert json.loads(file.read_text()) == fxprune.Plan.schema()
