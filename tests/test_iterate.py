"""Pruning in several steps: one plan of the original in the end, proved there, whatever was trained in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.grouped import Grouped
from torch import Tensor, nn

import fxprune
from fxprune import InputError
from fxprune.iterating.schedule import Schedule, schedule_of
from fxprune.iterating.scoring import ranked, scores_of_slim

torch.set_num_threads(1)


def net(width: int = 16) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Flatten(), nn.Linear(48, 4),
    ).eval()  # fmt: skip
    return model, torch.randn(2, 3, 6, 6)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm, self.head = nn.Linear(8, 48), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).reshape(n, t, 16)
        return self.head(self.norm(self.out(y)))


def shaken(slim: Any) -> None:
    """A training that moves every weight by chance."""
    with torch.no_grad():
        for p in slim.parameters():
            p.add_(0.3 * torch.randn_like(p))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "ratio": (lambda: net()[0], (2, 3, 6, 6), {"ratio": 0.5}),
    "ratio by layer": (lambda: net()[0], (2, 3, 6, 6), {"ratio": 0.5, "scope": "layer", "schedule": "linear"}),
    "ratio by name": (lambda: net()[0], (2, 3, 6, 6), {"ratio": {"0": 0.5, "3": 0.25}}),
    "threshold": (lambda: net()[0], (2, 3, 6, 6), {"ratio": 0.9, "scope": "threshold"}),
    "macs": (lambda: net()[0], (2, 3, 6, 6), {"macs": 0.5, "round_to": 2}),
    "macs by layer": (lambda: net()[0], (2, 3, 6, 6), {"macs": 0.5, "scope": "layer", "schedule": "geometric"}),
    "widths": (lambda: net()[0], (2, 3, 6, 6), {"macs": 0.5, "min_width": {"0": 9}, "round_to": {"Conv2d": 3}}),
    "memory": (lambda: net()[0], (2, 3, 6, 6), {"memory": 0.6}),
    "count": (lambda: net()[0], (2, 3, 6, 6), {"params": 1000, "schedule": [0.3, 0.6, 1]}),
    "heads": (Attention, (2, 5, 8), {"macs": 0.6, "attention": "heads"}),
    "both": (Attention, (2, 5, 8), {"ratio": 0.4, "attention": "both"}),
    "exact norms": (Attention, (2, 5, 8), {"macs": 0.5, "exact_norms": True}),
    "grouped": (Grouped, (2, 3, 6, 6), {"macs": 0.5}),
    "grouped by ratio": (Grouped, (2, 3, 6, 6), {"ratio": 0.5}),
}
QUICK = ("macs", "both", "grouped by ratio")


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_the_final_plan_is_one_of_the_original(case: str) -> None:
    """What goes grows; each plan, applied to the original at once, gives the same program."""
    make, shape, options = CASES[case]
    model, x = make().eval(), torch.randn(shape)
    before = copy.deepcopy(model.state_dict())
    previous: dict[str, set[int]] = {}
    reports = []
    for number, slim in enumerate(fxprune.iterate(model, example_inputs=x, steps=3, train=shaken, **options), 1):
        report = slim.meta["fxprune"]
        reports.append(report)
        gone = {group.id: set(group.removed) for group in report.plan.groups}
        assert all(previous[name] <= gone[name] for name in previous)
        assert report.checks.passed and (report.step.number, report.step.of, report.step.trained) == (number, 3, True)
        assert not any("keep their last" in note for note in report.notes)
        previous = gone
        again = fxprune.apply(model, fxprune.Plan.from_json(report.plan.to_json()))
        again.load_state_dict(slim.state_dict())
        assert again.code == slim.code and torch.equal(again(x), slim(x))
    last, macs = reports[-1], [report.plan.macs[1] for report in reports]
    assert macs[0] > macs[-1] and sorted(macs, reverse=True) == macs and last.plan.options["iteration"]["step"] == 3
    assert last.step.original.passed and all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    for name in {"macs", "params"} & options.keys():
        asked = options.get(name)
        whole, left = getattr(last.plan, name)
        assert left <= (asked * whole if asked < 1 else asked)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["ratio by layer", "ratio by name", "macs"])
def test_without_training_the_end_is_as_far(case: str) -> None:
    """With weights that stay, a ratio of every layer removes as many channels as at once, and a budget is met as nearly."""
    make, shape, options = CASES[case]
    model, x = make(), torch.randn(shape)
    slim = list(fxprune.iterate(model, example_inputs=x, steps=4, verify=False, **options))[-1]
    once = fxprune.plan(model, example_inputs=x, **{k: v for k, v in options.items() if k != "schedule"})
    plan = slim.meta["fxprune"].plan
    if case == "macs":
        assert 0.95 * once.macs[1] <= plan.macs[1] <= 0.5 * plan.macs[0]
    else:
        assert [len(g.kept) for g in plan.groups] == [len(g.kept) for g in once.groups]
    assert not plan.diff(plan).groups and "->" in plan.summary()


def test_one_step_is_prune() -> None:
    model, x = net()
    (slim,) = fxprune.iterate(model, example_inputs=x, macs=0.5, steps=1)
    once = fxprune.prune(model, example_inputs=x, macs=0.5)
    assert not slim.meta["fxprune"].plan.diff(once.meta["fxprune"].plan).groups and torch.equal(slim(x), once(x))


def test_channels_are_scored_as_those_of_the_slim_model_are() -> None:
    """The scores of what is left, found by name in the slim model's own analysis, by hand on one layer."""
    model, x = net()
    analysis = fxprune.analyze(model, x)
    gone = {"0.weight": [1, 4, 5], "3.weight": [0, 2]}
    cut = analysis.cut(gone)
    slim = fxprune.prune(model, 0.3, x)  # for its report alone
    plan = fxprune.revise(
        model, slim.meta["fxprune"].plan, {g: sorted({*range(s)} - {*gone[g]}) for g, s in (("0.weight", 16), ("3.weight", 12))}
    )
    slim = fxprune.apply(model, plan)
    options = fxprune.options.PruneOptions(0.5)
    found = scores_of_slim(cut, slim, lambda group, tensors: tensors[group.members[0].name].flatten(1).sum(1), options)
    weight = model.get_submodule("3").weight.detach()
    kept = np.delete(np.arange(16), gone["0.weight"])
    expected = weight[:, torch.from_numpy(kept)].flatten(1).sum(1).double().numpy()
    expected[gone["3.weight"]] = np.nan
    np.testing.assert_allclose(found["3.weight"], expected, rtol=1e-6)


def test_what_went_ranks_below_what_is_there() -> None:
    scores = {"a": np.array([0.0, 0.0, 7.0, 0.5]), "b": np.array([-2.0, 3.0])}
    went = {"a": np.array([0, 1, 2, 0]), "b": np.array([0, 3])}
    found = ranked(scores, went, 3, 1e-9)
    assert found["a"][1] < found["a"][2] < -2.0 == found["b"][0] and found["b"][1] == 3.0  # of this step: as it is
    assert found["a"][[0, 3]].tolist() == [0.0, 0.5]


def test_the_loop_may_train_too() -> None:
    """Weights that the body changes are those that the next step goes on with."""
    model, x = net()
    seen = []

    def body(slim: Any) -> None:
        with torch.no_grad():
            slim.get_submodule("7").bias.fill_(float(slim.meta["fxprune"].step.number))

    for slim in fxprune.iterate(model, 0.5, x, steps=3):
        seen.append(slim.get_submodule("7").bias[0].item())
        body(slim)
    assert seen[1:] == [1.0, 2.0] and slim.get_submodule("7").bias[0].item() == 3.0


def test_a_returned_model_is_taken_and_modes_stay() -> None:
    model, x = net()

    def train(slim: Any) -> Any:
        slim.train()
        made = copy.deepcopy(slim)
        shaken(made)
        made.meta["fxprune"].finetuning = {"epochs": [1]}
        return made

    state = torch.get_rng_state()
    first, second = fxprune.iterate(model, 0.5, x, steps=2, train=train)
    assert torch.equal(torch.get_rng_state(), state) and not first.training and not second.get_submodule("1").training
    assert second.meta["fxprune"].finetuning == {"epochs": [1]}
    weight = model.get_submodule("7").bias.detach()
    assert not torch.equal(first.get_submodule("7").bias.detach(), weight)


def test_repair_is_against_the_original() -> None:
    model, x = net()
    images = torch.randn(60, 3, 6, 6)
    errors = [s.meta["fxprune"].repair for s in fxprune.iterate(model, 0.5, x, steps=2, repair=images)]
    assert all(found.after < found.before for found in errors)


def _nudged(slim: Any) -> None:
    with torch.no_grad():
        next(slim.parameters()).mul_(1.01)


@pytest.mark.parametrize(
    ("repaired", "train", "body", "times"),
    [
        (False, None, None, 3),
        (True, None, None, 1),
        (True, _nudged, None, 3),
        (True, None, _nudged, 3),
        (True, lambda slim: None, None, 1),
    ],
    ids=["neither", "repaired alone", "trained", "trained in the loop", "trained to no effect"],
)
def test_scores_are_taken_anew_where_more_than_a_repair_changed_the_weights(
    repaired: bool, train: Any, body: Any, times: int
) -> None:
    model, x = net()
    read = []

    class Data:
        def __iter__(self) -> Any:
            read.append(1)
            return iter([(torch.randn(8, 3, 6, 6), torch.arange(8) % 4)])

    images = torch.randn(24, 3, 6, 6) if repaired else None
    for slim in fxprune.iterate(model, 0.5, x, steps=3, data=Data(), criterion="taylor", train=train, repair=images):
        if body is not None:
            body(slim)
    assert len(read) == times and slim.meta["fxprune"].checks.passed


# -- schedules --------------------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    """Equation 1 of Zhu & Gupta 2017, with s_i = 0 and t_0 = 0, by hand."""
    for n, final in ((4, 0.2), (7, 0.75)):
        for t in range(1, n + 1):
            s_f = 1 - final
            assert Schedule("cubic", n).kept(final, t) == pytest.approx(1 - (s_f + (0 - s_f) * (1 - t / n) ** 3))
            assert Schedule("linear", n).kept(final, t) == pytest.approx(1 - s_f * t / n)
            assert Schedule("geometric", n).kept(final, t) == pytest.approx(final ** (t / n))
    assert [schedule_of([0.5, 1], None).kept(0.6, t) for t in (1, 2)] == pytest.approx([0.8, 0.6])


# -- bad input --------------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"steps": 0}, "steps must be a whole number"),
    "many": ({"steps": 10**6}, "steps must be a whole number"),
    "true": ({"steps": True}, "steps must be a whole number"),
    "name": ({"schedule": "cubik"}, "did you mean 'cubic'"),
    "falls": ({"schedule": [0.5, 0.4, 1]}, "rising"),
    "short": ({"schedule": [0.5, 0.9]}, "1 at last"),
    "words": ({"schedule": ["a", 1]}, "rising"),
    "nothing": ({"schedule": []}, "rising"),
    "steps differ": ({"schedule": [0.5, 1], "steps": 3}, "2 steps, and steps says 3"),
    "train": ({"train": 3}, "train must be a function"),
    "once": ({"repair": iter([1])}, "not an iterator"),
    "data once": ({"data": (i for i in [1]), "criterion": "taylor"}, "not an iterator"),
    "images": ({"repair": "folder"}, "must be images"),
    "both": ({"macs": 0.5}, "both is given"),
    "folder": ({"folder": 3}, "folder must be text"),
    "file": ({"folder": __file__}, "is a file"),
    "criterion": ({"criterion": "l3"}, "did you mean"),
    "scope": ({"scope": "globl"}, "did you mean"),
    "within": ({"ratio": None, "macs": 1e12}, "within the budgets as it is"),
    "verify": ({"verify": "yes"}, "verify must be True or False"),
    "width": ({"min_width": 0}, "min_width must be"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_bad_arguments_are_refused_at_once(kind: str) -> None:
    """Not when the loop begins: `iterate` itself raises."""
    model, x = net()
    options, text = WRONG[kind]
    with pytest.raises(InputError, match=text):
        fxprune.iterate(model, example_inputs=x, **{"ratio": 0.5, **options})


def test_an_end_that_cannot_be_reached_is_said_before_the_first_step() -> None:
    model, x = net()
    trained: list[Any] = []
    with pytest.raises(InputError, match="no choice of channels meets the budgets"):
        list(fxprune.iterate(model, example_inputs=x, macs=0.01, max_ratio=0.3, train=trained.append))
    assert not trained


def _weight_norm(slim: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(slim.get_submodule("7"))


def _other_part(slim: Any) -> None:
    slim.set_submodule("2", nn.GELU())


def _not_finite(slim: Any) -> None:
    slim.get_submodule("7").bias.data[0] = float("nan")


def _fails(slim: Any) -> None:
    raise RuntimeError("out of memory")


TRAINED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "other tensors": (_weight_norm, r"train in step 1 left another model .* fold or take off"),
    "half": (lambda slim: slim.half(), "left another model"),
    "no model": (lambda slim: 3.0, "must train the model in place or return it, not 3.0"),
    "another model": (lambda slim: net()[0], "left another model"),
    "other part": (_other_part, "other parts"),
    "not finite": (_not_finite, "NaN or infinite: 7.bias"),
    "fails": (_fails, "train failed in step 1: RuntimeError: out of memory"),
    "wrapped": (lambda slim: nn.DataParallel(slim), "give the module inside"),
}


@pytest.mark.parametrize("kind", TRAINED)
def test_what_train_leaves_is_looked_at(kind: str) -> None:
    train, text = TRAINED[kind]
    model, x = net()
    with pytest.raises(InputError, match=text):
        list(fxprune.iterate(model, 0.5, x, steps=2, train=train, verify=False))
