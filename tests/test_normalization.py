"""How the scores of groups are made comparable for one ranking over all of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.analysis.groups import Group

# The maximum of the first group is far above the others; the second has one low channel.
SCORES = ([1.0] * 7 + [8.0], [0.3, 1.0, 1.0, 1.0])
LOWEST = {None: "0.weight", "max": "0.weight", "l2": "0.weight", "mean": "1.weight", "gaussian": "1.weight", "none": "1.weight"}
X = torch.zeros(1, 3)


def chain() -> nn.Sequential:
    """Two groups, whose l2 norms are these scores."""
    model = nn.Sequential(nn.Linear(3, 8, bias=False), nn.Linear(8, 4, bias=False), nn.Linear(4, 2))
    with torch.no_grad():
        for layer, scores in zip(model, SCORES, strict=False):
            layer.weight.zero_()
            layer.weight[:, 0] = torch.tensor(scores)
    return model


def norms(group: Group, tensors: dict[str, Tensor]) -> Tensor:
    """A user's function."""
    return tensors[group.id].norm(dim=1)


def first_to_go(**options: Any) -> tuple[str, str]:
    """The group that loses the one channel that goes, and what the plan says of the normalisation."""
    plan = fxprune.plan(chain(), 1 / 12, X, **options)
    (group,) = [g.id for g in plan.groups if g.removed]
    return group, plan.options["normalization"]


@pytest.mark.parametrize("how", LOWEST)
def test_the_ranking_over_all_groups_is_by_normalised_scores(how: Any) -> None:
    assert first_to_go(normalization=how) == (LOWEST[how], how or "max")
    made = criteria.resolve("l2", normalization=how)
    assert first_to_go(criterion=made) == (LOWEST[how], how or "max")


@pytest.mark.parametrize("how", LOWEST)
def test_what_prune_is_asked_for_goes_before_what_the_criterion_does(how: Any) -> None:
    made = criteria.resolve("l2", normalization="gaussian")
    assert first_to_go(criterion=made, normalization=how)[0] == LOWEST[how or "gaussian"]
    assert made.normalization == "gaussian"  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", LOWEST)
def test_scores_of_a_function_are_normalised_where_that_is_asked_for(how: Any) -> None:
    assert first_to_go(criterion=norms, normalization=how) == (LOWEST[how or "none"], how or "none")


def test_by_layer_nothing_changes() -> None:
    kept = [[g.kept for g in fxprune.plan(chain(), 0.5, X, scope="layer", normalization=h).groups] for h in ("max", "none")]
    assert kept[0] == kept[1]


def test_plans_from_before_are_read() -> None:
    model = chain()
    plan = fxprune.plan(model, 0.5, X)
    document = json.loads(plan.to_json())
    del document["options"]["normalization"]
    old = fxprune.Plan.from_json(json.dumps(document))
    assert old.settings.normalization is None and plan.settings.normalization == "max"
    slim, expected = (fxprune.apply(model, p).state_dict() for p in (old, plan))
    assert all(torch.equal(slim[name], value) for name, value in expected.items())
