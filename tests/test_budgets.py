"""Budgets: never exceeded, met within one per cent or as nearly as can be, with no less saliency than the plain ratio keeps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from networks import NETWORKS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fxprune
from fxprune import deciding
from fxprune.analysis.analysis import Analysis
from fxprune.analysis.polynomials import Polynomials
from fxprune.errors import InputError, PlanMismatch
from fxprune.options import PruneOptions
from fxprune.planning.accounting import account_of, problem_of, targets_of
from fxprune.planning.policies import Policy, policy_of, register, registry
from fxprune.planning.policies.budgets import Budgeted
from fxprune.planning.search.bound import upper_bound
from fxprune.planning.search.exchange import improved
from fxprune.planning.search.greedy import filled, lowered
from fxprune.planning.search.nearness import NEAR, nearer, nearness
from fxprune.planning.search.problem import Problem


class Block(nn.Module):
    """A residual stream of 24 channels, blocks of other widths on it, a strided end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.inner = nn.ModuleList([nn.Conv2d(24, width, 3, padding=1) for width in (40, 16)])
        self.outer = nn.ModuleList([nn.Conv2d(width, 24, 3, padding=1) for width in (40, 16)])
        self.last, self.head = nn.Conv2d(24, 64, 3, stride=2), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(inner(x).relu())
        return self.head(self.last(x.relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    net = Block()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:  # trained channels differ more than fresh ones
                parameter.mul_(torch.linspace(0.1, 2, len(parameter)).square().reshape(-1, *[1] * (parameter.dim() - 1)))
    return net.eval()


X = torch.zeros(2, 3, 16, 16)


def macs_on_meta(net: nn.Module, x: Tensor) -> float:
    """Of one sample, by another count than ours."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net.to("meta")(x.to("meta"))
    return counter.get_total_flops() / 2 / len(x)


def searched(analysis: Analysis, scores: dict[str, np.ndarray], **options: Any) -> tuple[Policy, dict[str, np.ndarray]]:
    policy = policy_of(PruneOptions(**options))
    return policy, policy.choose(analysis, scores)


# -- costs as functions ------------------------------------------------------------------------------------


NAMES = [
    "concatenation",
    "zero-padded channels (ResNet option A)",
    "flatten before linear",
    "grouped convolution",
    "LayerNorm of whole maps",
    "fused qkv",
]


@pytest.mark.parametrize("name", NAMES)
def test_polynomials_are_what_a_cut_costs(name: str) -> None:
    net, random = NETWORKS[name], np.random.default_rng(0)
    analysis = fxprune.analyze(net.build(), net.inputs(2), attention="both")
    for _ in range(3):
        gone = {g.id: random.choice(g.size, random.integers(g.size), replace=False) for g in analysis.free}
        kept = np.array([g.size - len(gone[g.id]) for g in analysis.free], np.float64)
        cut, costs = analysis.cut(gone), analysis.polynomials
        assert costs.exact and costs.values(kept).tolist() == [cut.total_macs, cut.params]
        steps = 0.5 * np.eye(len(kept))  # of a polynomial of the second degree in one variable, this is the derivative
        difference = np.stack([costs.values(kept + step) - costs.values(kept - step) for step in steps], axis=1)
        if costs.factors.shape[1] * costs.patterns.shape[1] <= 2:
            assert np.allclose(costs.slopes(kept), difference)
        assert (
            costs.slopes(kept) <= np.stack([costs.values(kept + 2 * s) - costs.values(kept) for s in steps], 1) + 1e-6
        ).all()


def test_channels_that_cost_unlike_each_other_are_counted_by_the_cut() -> None:
    net = NETWORKS["grouped convolution of channels that are told apart by their place"]
    analysis = fxprune.analyze(net.build(), net.inputs(2))
    assert not analysis.polynomials.exact
    scores = {g.id: np.linspace(1, 2, g.size) for g in analysis.free}
    policy, gone = searched(analysis, scores, macs=0.6)
    assert gone and analysis.cut(gone).total_macs <= targets_of(analysis, policy.options)["macs"]


# -- the search --------------------------------------------------------------------------------------------


def small_problem(seed: int, scores: str, both: bool = False) -> Problem:
    """A chain 3 -> a -> b -> c -> 2 of layers with biases, small enough for all states to be tried."""
    random = np.random.default_rng(seed)
    sizes, none = random.integers(3, 9, 3), 3
    costs = Polynomials(
        names=("macs", "params"),
        exact=True,
        bases=np.array([1.0, 0, 0, 0]),
        axis=np.array([1, 2, 3]),
        pattern=np.array([0, 1, 2]),
        times=np.ones(3),
        patterns=np.array([[0], [1], [2]]),
        constants=np.array([3.0 * 16, 16, 4, 2, 4, 2, 2, 3]),
        factors=np.array([[1, 0], [1, 2], [2, 3], [3, 0], [1, 0], [1, 2], [2, 3], [3, 0]]),
        owners=np.array([0, 0, 0, 0, 1, 1, 1, 1]),
        fixed=np.array([5.0, 2.0]),
        groups=3,
    )
    assert none == len(sizes)
    dense = costs.values(sizes.astype(np.float64))
    found = [random.gamma(0.5, size=n) if scores == "skewed" else 1 + 0.1 * random.random(n) for n in sizes]
    targets = dense * np.array([0.5, 0.6 if both else np.inf])
    bound, full = np.isfinite(targets), sizes.astype(np.float64)
    weights = (costs.slopes(full)[bound] / dense[bound][:, None]).sum(0)
    return Problem.of((costs, targets), [np.arange(1, n + 1) for n in sizes], found, weights)


def best_of_all(problem: Problem) -> float:
    states = (np.array(s) for s in itertools.product(*(range(top + 1) for top in problem.tops)))
    return max(problem.value(state) for state in states if problem.fits(state))


@pytest.mark.parametrize("both", [False, True], ids=["one budget", "two budgets"])
@pytest.mark.parametrize("scores", ["skewed", "flat"])
def test_the_best_lies_between_what_is_found_and_the_bound(scores: str, both: bool) -> None:
    shares = []
    for seed in range(4):
        problem = small_problem(seed, scores, both)
        state = improved(problem, filled(problem, lowered(problem, problem.tops, problem.targets)))
        bound, _ = upper_bound(problem, state)
        best, found = best_of_all(problem), problem.value(state)
        assert problem.fits(state)
        assert found <= best * (1 + 1e-9) and best <= bound * (1 + 1e-9)
        shares.append(found / best)
    assert min(shares) > 0.9 and np.mean(shares) > 0.95


def test_going_down_ends_within_the_targets_and_going_up_at_the_last_step_that_fits() -> None:
    problem = small_problem(1, "skewed")
    low = lowered(problem, problem.tops, problem.targets)
    assert problem.fits(low) and not problem.fits(problem.tops)
    high = filled(problem, low)
    assert problem.fits(high) and (high >= low).all()
    for group in np.flatnonzero(high < problem.tops):
        above = high.copy()
        above[group] += 1
        assert not problem.fits(above)


@pytest.mark.parametrize("both", [False, True], ids=["one budget", "two budgets"])
def test_where_steps_leave_a_gap_others_fill_it(both: bool) -> None:
    gained = []
    for seed in range(5):
        problem = small_problem(seed, "flat", both)
        state = improved(problem, filled(problem, lowered(problem, problem.tops, problem.targets)))
        near = nearer(problem, state, 6)
        states = (np.array(s) for s in itertools.product(*(range(top + 1) for top in problem.tops)))
        most = max(nearness(problem, each) for each in states if problem.fits(each))
        assert problem.fits(near) and min(nearness(problem, near), NEAR) == pytest.approx(min(most, NEAR), abs=0.01)
        gained.append(nearness(problem, near) > nearness(problem, state))
    assert any(gained)


# -- what users get ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("budgets", [{"macs": 0.3}, {"params": 0.5}, {"macs": 400_000.0}], ids=str)
def test_the_result_is_within_one_per_cent_below_the_budget(model: nn.Module, budgets: dict[str, float], scope: Any) -> None:
    slim = fxprune.prune(model, example_inputs=X, scope=scope, verify=False, **budgets)
    report = slim.meta["fxprune"]
    [(name, asked)] = budgets.items()
    [budget] = report.plan.account.budgets
    target = asked * getattr(report, f"{name}_before") if asked < 1 else asked
    assert 0.99 * target <= budget.after <= budget.target <= target and not report.plan.account.notes
    assert (report.macs_after, report.params_after) == (macs_on_meta(slim, X), sum(p.numel() for p in slim.parameters()))
    assert budget.after == getattr(report, f"{name}_after")


def test_several_budgets_hold_at_once(model: nn.Module) -> None:
    plan = fxprune.plan(model, example_inputs=X, macs=0.5, params=0.3)
    macs, params = plan.account.budgets
    assert macs.after <= 0.5 * macs.before and 0.297 * params.before <= params.after <= 0.3 * params.before
    assert plan.account.saliency <= plan.account.bound < 1
    lines = str(fxprune.apply(model, plan).meta["fxprune"]).splitlines()
    assert lines[1] == str(plan.account) and "budget 0.5" in lines[1] and "at most" in lines[1]


@pytest.mark.parametrize("name", ["concatenation", "grouped convolution", "fused qkv"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_no_less_saliency_than_by_the_plain_ratio(name: str, scope: Any) -> None:
    net, random = NETWORKS[name], np.random.default_rng(1)
    analysis = fxprune.analyze(net.build(), net.inputs(2))
    scores = {g.id: random.gamma(1.0, size=g.size) for g in analysis.free}
    for budgets in ({"macs": 0.7}, {"params": 0.5}):
        policy, gone = searched(analysis, scores, scope=scope, **budgets)
        account = account_of(analysis.cut(gone), policy, scores)  # which refuses what exceeds a budget
        assert isinstance(policy, Budgeted)
        problem = problem_of(analysis, policy, scores)
        best = None
        for ratio in np.linspace(0.03, 0.99, 33):
            plain = policy_of(PruneOptions(float(ratio), scope=scope)).choose(analysis, scores)
            state = problem.state_of([g.size - len(plain.get(g.id, ())) for g in analysis.free])
            if problem.fits(state):
                best = state
                break
        if best is not None and not analysis.exclusive:
            assert account.saliency >= problem.share(problem.value(best)) - 1e-5


def test_layers_give_up_the_same_share(model: nn.Module) -> None:
    plan = fxprune.plan(model, example_inputs=X, macs=0.5, scope="layer")
    free = [g for g in plan.groups if g.status == "free"]
    shares = [len(g.kept) / g.size for g in free]
    assert max(shares) - min(shares) <= 2 / min(g.size for g in free)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_multiples_are_kept_and_what_binds_is_said(model: nn.Module, scope: Any) -> None:
    plan = fxprune.plan(model, example_inputs=X, macs=0.55, round_to=8, max_ratio=0.7, scope=scope)
    for group in plan.groups:
        if group.status == "free":
            assert len(group.kept) % 8 == 0 and len(group.kept) >= 0.3 * group.size
    [budget] = plan.account.budgets
    if budget.after < 0.99 * budget.target:
        assert "are left below the nearest budget: the smallest step, 8 channels of" in plan.account.notes[0]
        assert (
            "(round_to=8), exceeds it, and what was tried in exchange exceeds it, too, or keeps less" in plan.account.notes[0]
        )
    coarse = fxprune.plan(model, example_inputs=X, macs=0.55, round_to=16, scope=scope)
    assert coarse.account.notes and coarse.account.budgets[0].after <= coarse.account.budgets[0].target


def test_what_is_within_the_budgets_stays_whole(model: nn.Module) -> None:
    slim = fxprune.prune(model, example_inputs=X, params=10**9)
    report = slim.meta["fxprune"]
    assert report.params_after == report.params_before and report.plan.account.bound == report.plan.account.saliency == 1
    assert "the model is within the budgets as it is: nothing was removed" in str(report)


def test_a_budget_that_nothing_meets_is_refused_with_what_binds(model: nn.Module) -> None:
    with pytest.raises(InputError, match=r"macs=0.2 allows .*, where .* remain if every group .* what binds is max_ratio=0.3"):
        fxprune.plan(model, example_inputs=X, macs=0.2, max_ratio=0.3)
    with pytest.raises(InputError, match=r"params=0.1 allows .* what binds is what is frozen or protected"):
        fxprune.plan(model, example_inputs=X, macs=0.9, params=0.1, ignore=["last", "outer.0", "outer.1"])


def test_plans_store_how_budgets_were_met(model: nn.Module) -> None:
    plan = fxprune.plan(model, example_inputs=X, macs=0.5)
    text = plan.to_json()
    again = fxprune.Plan.from_json(text)
    assert again.account == plan.account and again.to_json() == text and again.settings.budgets == {"macs": 0.5}
    assert fxprune.plan(model, example_inputs=X, macs=0.5).to_json() == text  # the same seed, the same bytes
    by_ratio = fxprune.plan(model, 0.5, X).to_json()
    assert '"account"' not in by_ratio and '"macs": null' not in by_ratio
    with pytest.raises(PlanMismatch, match="damaged"):
        fxprune.Plan.from_json(text.replace('"saliency": ', '"saliency": "much", "share": '))


def test_what_cannot_be_rewritten_stays_whole_and_the_others_meet_the_budget(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = deciding.rewrite

    def stubborn(analysis: Analysis, gone: Any, passes: Any) -> Any:
        found = true(analysis, {name: channels for name, channels in gone.items() if name != "last.weight"}, passes)
        if "last.weight" in gone:
            found.frozen["last.weight"] = "its shape differs"
        return found

    monkeypatch.setattr(deciding, "rewrite", stubborn)
    plan = fxprune.plan(model, example_inputs=X, macs=0.5)
    assert plan.group("last.weight").reason == "its shape differs"
    [budget] = plan.account.budgets
    assert 0.99 * budget.target <= budget.after <= budget.target


def test_a_policy_of_ones_own_may_meet_budgets_and_may_not_exceed_them(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", {})

    @register("shy")
    class Shy(Policy):
        def choose(self, analysis: Analysis, scores: Any) -> dict[str, np.ndarray]:
            count = 3 if self.options.budgets["macs"] < 0.9 else 1
            return {g.id: self.lowest(g, scores[g.id], count) for g in analysis.free}

    with pytest.raises(InputError, match=r"policy Shy exceeds the budget: [0-9,]+ macs are left where [0-9,]+ are allowed"):
        fxprune.plan(model, example_inputs=X, macs=0.5, scope="shy")
    plan = fxprune.plan(model, example_inputs=X, macs=0.95, scope="shy")
    assert plan.account.budgets[0].after <= plan.account.budgets[0].target
    assert "the policy 'shy' stopped" in plan.account.notes[0] and "would still fit" in plan.account.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "by ratio, the fraction of the channels to remove, or by budgets, as macs=0.5, params=0.3; neither is given"),
        ({"ratio": 0.5, "macs": 0.5}, "both is given"),
        ({"macs": 0}, "macs must be the fraction that is kept, between 0 and 1, or a count above 1"),
        ({"macs": 1}, "not 1"),
        ({"params": "half"}, "params must be the fraction"),
        ({"params": True}, "params must be the fraction"),
        ({"params": float("nan")}, "params must be the fraction"),
        ({"macs": float("inf")}, "macs must be the fraction"),
    ],
    ids=["nothing", "both", "none left", "one or all", "words", "truth", "no number", "endless"],
)
def test_amounts_that_say_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        PruneOptions(**options)
    assert message in str(caught.value)


def test_a_policy_that_goes_by_ratio_alone_says_so(model: nn.Module) -> None:
    with pytest.raises(InputError, match="scope='threshold' goes by ratio: with budgets, 'global', 'layer' or 'isomorphic'"):
        fxprune.plan(model, example_inputs=X, macs=0.5, scope="threshold")


def test_a_group_keeps_its_least_where_the_nearest_multiple_is_less() -> None:
    policy, group = Policy(PruneOptions(0.9, max_ratio=0.95, round_to=4)), fxprune.Group("one", 100, ())
    assert policy.within(group, 95) == 92 and policy.levels(group)[:2].tolist() == [8, 12]
    assert policy.levels(fxprune.Group("two", 6, ())).tolist() == [4, 6]
