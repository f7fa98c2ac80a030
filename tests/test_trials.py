"""Several plans within the same budgets, tried on the images of a repair."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.inputs.batches import Batch
from fxprune.options import PruneOptions
from fxprune.planning.policies import policy_of
from fxprune.planning.policies.candidates import candidates_beside
from fxprune.recovery.repair import trying
from fxprune.recovery.repair.trying import tried

torch.set_num_threads(1)
X = torch.randn(160, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> nn.Module:
    """Layers of different costs, whose channels differ more and less: a ranking and the search part ways."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(2, 20, 3), nn.Conv2d(20, 24, 3, 2), nn.Conv2d(24, 28, 1)]
    layers = [part for layer in convolutions for part in (layer, nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(28, 3)).eval()
    with torch.no_grad():
        for layer, spread in zip(convolutions, (0.2, 0.9, 0.5), strict=True):
            layer.weight.mul_((spread * torch.randn(len(layer.weight), 1, 1, 1)).exp())
    return model


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    for part in X.split(20):
        yield part, torch.zeros(len(part))


def halves(images: Any, net: nn.Module, seed: int = 0) -> tuple[list[Batch], list[Batch]]:
    return trying._drawn(images, fxprune.trace(net, X[:1]), seed)


def values(parts: list[Batch]) -> Tensor:
    return torch.cat([part.inputs[0] for part in parts])


@pytest.mark.parametrize("images", [X, list(X.split(20)), batches()], ids=["tensor", "batches", "iterator"])
def test_the_plan_of_the_least_error_is_taken(net: nn.Module, images: Any) -> None:
    before = copy.deepcopy(net.state_dict())
    slim = fxprune.prune(net, None, X[:1], macs=0.4, criterion="l2", repair=images)
    report = slim.meta["fxprune"]
    trials = report.trials
    assert [t.name for t in trials.trials] == ["saliency", "ranking"]  # of which what is between is one, in so small a network
    assert sum(trials.images) == 160
    assert trials.chosen == min(trials.trials, key=lambda t: t.error).name
    assert all(t.macs <= 0.4 * report.macs_before for t in trials.trials)
    (chosen,) = [t for t in trials.trials if t.name == trials.chosen]
    assert (chosen.macs, chosen.params) == (report.macs_after, report.params_after)
    assert str(trials) in report.plan.account.notes and str(trials) in str(report) and sum(report.repair.images) == 160
    assert json.loads(json.dumps(report.to_dict()))["trials"]["chosen"] == trials.chosen
    assert report.checks.passed and fxprune.apply(net, report.plan)(X).shape == (160, 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_errors_are_those_of_the_repaired_model_on_the_other_images(net: nn.Module) -> None:
    fitted, others = halves(X, net)
    plans = {str(ratio): fxprune.plan(net, ratio, X[:1], scope="layer") for ratio in (0.7, 0.3)}
    found = tried({name: lambda plan=plan: fxprune.apply(net, plan) for name, plan in plans.items()}, net, X)
    assert found is not None and found.chosen == "0.3" and found.images == (len(values(fitted)), len(values(others)))
    for trial in found.trials:
        slim = fxprune.repair(fxprune.apply(net, plans[trial.name]), net, [part.inputs for part in fitted])
        with torch.no_grad():
            wanted, given = net(values(others)).double(), slim(values(others)).double()
        error = (wanted - given).square().sum() / (wanted - wanted.mean()).square().sum()
        assert trial.error == pytest.approx(float(error), rel=1e-6)


@pytest.mark.parametrize("images", [X, list(X.split(20)), [X]], ids=["tensor", "batches", "one batch"])
def test_images_are_drawn_at_random_and_each_is_used_once(net: nn.Module, images: Any) -> None:
    fitted, others = map(values, halves(images, net))
    assert 40 <= len(fitted) <= 72
    both = torch.cat([fitted, others])
    assert torch.equal(both.flatten(1).sum(1).sort().values, X.flatten(1).sum(1).sort().values)
    places = [int((row == X).flatten(1).all(1).nonzero()[0]) for row in fitted]
    assert min(places) < 60 and max(places) > 100  # not the first quarter: a folder may be sorted by class
    assert not torch.equal(values(halves(images, net, seed=1)[0]), fitted)


def test_of_many_batches_some_are_drawn_from_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "_IMAGES", 40)
    kept = trying._some([torch.full((4, 1), float(n)) for n in range(100)], torch.Generator().manual_seed(0))
    numbers = sorted(float(batch[0, 0]) for batch in kept)
    assert len(set(numbers)) == 10 and numbers[0] < 40 and numbers[-1] > 60


def test_too_few_images_choose_nothing(net: nn.Module) -> None:
    report = fxprune.prune(net, None, X[:1], macs=0.4, criterion="l2", repair=X[:12]).meta["fxprune"]
    assert report.trials is None and any("too few to choose among several plans" in note for note in report.notes)


@pytest.mark.parametrize("options", [{"macs": 0.4, "scope": "layer"}, {"ratio": 0.5}], ids=["by layer", "a ratio"])
def test_one_plan_is_made_where_the_user_says_which(net: nn.Module, options: Any) -> None:
    report = fxprune.prune(net, example_inputs=X[:1], criterion="l2", repair=X, **options).meta["fxprune"]
    assert report.trials is None and report.to_dict()["trials"] is None


def test_scores_that_are_losses_are_taken_at_their_word() -> None:
    def losses(group: Any, tensors: Any) -> Any:
        return [1.0] * group.size

    losses.additive = True  # type: ignore[attr-defined]
    assert not candidates_beside(policy_of(PruneOptions(None, losses, macs=0.5)))
    assert [*candidates_beside(policy_of(PruneOptions(None, "l2", macs=0.5)))] == ["ranking", "between"]


@pytest.mark.parametrize("macs", [0.3, 0.5])
def test_what_is_between_lies_between(net: nn.Module, macs: float) -> None:
    policy = policy_of(PruneOptions(None, "l2", macs=macs))
    analysis = fxprune.analyze(net, X[:1])
    scores = fxprune.criteria.score_groups(fxprune.criteria.resolve("l2"), net, analysis)
    others = candidates_beside(policy)
    found = [policy.choose(analysis, scores), *(o.choose(o.policy, analysis, scores) for o in others.values())]
    widths = [[g.size - len(gone.get(g.id, ())) for g in analysis.free] for gone in found]
    assert widths[0] != widths[1] and all(0.95 * macs <= analysis.cut(gone).macs / analysis.macs() <= macs for gone in found)
    for one, other, middle in zip(*widths, strict=True):
        assert min(one, other) <= middle <= max(one, other)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(128, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.end(x)


def test_branches_are_tried_beside_channels_alone() -> None:
    torch.manual_seed(0)
    model = Residual().eval()
    with torch.no_grad():
        for number in (1, 2):
            model.blocks[number][2].weight.mul_(1e-3)  # these do next to nothing
    report = fxprune.prune(model, None, X[:1], macs=0.6, branches=True, criterion="l2", data=[X], repair=X).meta["fxprune"]
    trials = report.trials
    assert [t.name for t in trials.trials][:2] == ["branches", "saliency"]
    assert trials.chosen == min(trials.trials, key=lambda t: t.error).name == "branches"
    assert any(not branch.kept for branch in report.plan.branches) and report.checks.passed
    assert report.macs_after <= 0.6 * report.macs_before
