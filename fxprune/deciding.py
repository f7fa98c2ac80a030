"""From options to a plan and its rewrite, and from a rewrite to a slim model: the two halves of `fxprune.prune`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from torch import fx, nn

from fxprune.analysis.analysis import Analysis
from fxprune.criteria import Criterion, normalization_of, resolve, score_groups
from fxprune.errors import BudgetUnreachable, InputError, NothingToPrune, PlanMismatch
from fxprune.inputs.acceptance import check_values
from fxprune.options import PruneOptions
from fxprune.planning.account import Account
from fxprune.planning.accounting import account_of
from fxprune.planning.document import document_of, listed
from fxprune.planning.plan import Plan, checked_plan
from fxprune.planning.policies import Policy, Scores, chosen, policy_of
from fxprune.planning.policies.candidates import Candidate, candidates_beside
from fxprune.planning.policies.with_branches import candidates, chosen_with_branches, scores_of_branches
from fxprune.planning.report import Clock
from fxprune.proofs.verify import check_rewrite
from fxprune.recovery.repair.trying import tried
from fxprune.rewrite import Rewritten, rewrite, with_weights
from fxprune.statistics.branch_effects import branch_effects
from fxprune.submodules.target import Target

__all__ = ["decide", "finish", "replay"]

_TOO_FEW = "the images are too few to choose among several plans: what keeps the most saliency was taken"
Planned = tuple[Plan, Rewritten]


def decide(
    what: tuple[Any, ...], options: PruneOptions, clock: Clock, profile: Any = None, images: Any = None, **observed: Any
) -> tuple[Target, Plan, Rewritten]:
    """Analyze, score, select and rewrite on shapes.

    Args:
        what: model, submodules, example inputs, and whether errors name other submodules.
        profile: a table of latencies, or its file, where one is needed.
        images: of the repair that follows, if one does; under budgets they choose among several plans.
        observed: what `fxprune.criteria.prepare` takes.
    """
    policy, criterion = policy_of(options), resolve(options.criterion, options.seed)
    target = Target.of(*what)
    target.check_criterion(criterion)
    analysis = target.analyze(options.attention, options.ignore)
    clock("analyze")
    if options.latency is not None or options.round_to == "auto":
        from fxprune.profiling.using import settled

        options = settled(options, target, analysis, profile)
        policy = policy_of(options)
        clock("profile")
    candidates(analysis, options.branches)  # wrong names are told before anything is measured
    if options.branches and isinstance(observed.get("data"), Iterator):  # which is read once more for the branches
        observed["data"] = list(islice(observed["data"], observed.get("batches")))
    scores = score_groups(criterion, target.model, analysis, options.normalization, **observed)
    effects = _effects(target, analysis, options, **observed)
    choose = partial(chosen_with_branches, effects=effects) if options.branches else chosen
    gone = choose(policy, analysis, scores)
    clock("score and select")
    rewritten, account = rewrite(analysis, gone, options.passes), None
    clock("rewrite")
    if options.budgets:
        rewritten, account = _within_budgets(rewritten, policy, analysis, scores, choose)
        clock("budgets")
    stored = options.to_json() | {"normalization": normalization_of(criterion, options.normalization)} | target.described()
    shown = {**scores, **(scores_of_branches(analysis, scores, effects) if options.branches else {})}

    def planned(rewritten: Rewritten, account: Account | None) -> Planned:
        rewritten.context.notes += criterion.notes if isinstance(criterion, Criterion) else ()
        return document_of(target.model, rewritten.cut, stored, shown, rewritten.frozen, account), rewritten

    found = planned(rewritten, account)
    if options.budgets and images is not None:
        others = candidates_beside(policy)
        plans = {"branches" if options.branches else "saliency": found}
        plans |= {n: planned(*made) for n, made in _beside(others, analysis, scores)}
        found = _best(plans, target, images, options)
        clock("try plans")
    return target, *found


def _beside(
    others: Mapping[str, Candidate], analysis: Analysis, scores: Scores
) -> Iterator[tuple[str, tuple[Rewritten, Account]]]:
    """Other plans within the same budgets, where there are any."""
    for name, other in others.items():
        with contextlib.suppress(BudgetUnreachable, NothingToPrune):
            gone = other.choose(other.policy, analysis, scores)
            rewritten = rewrite(analysis, gone, other.policy.options.passes)
            yield name, _within_budgets(rewritten, other.policy, analysis, scores, other.choose)


def _best(plans: Mapping[str, Planned], target: Target, images: Any, options: PruneOptions) -> Planned:
    """Of several plans that whose slim model, once repaired, is nearest to the dense one on images that it did not see."""
    first = next(iter(plans.values()))
    different: dict[str, Planned] = {}
    for name, found in plans.items():
        if all(found[0].kept != other[0].kept for other in different.values()):
            different[name] = found
    if len(different) == 1:
        return first

    def slim(plan: Plan) -> fx.GraphModule:
        analysis = first[1].cut.analysis.full
        rewritten = rewrite(analysis, plan.cuts(analysis), options.passes)
        module = with_weights(rewritten, target.model)
        module.meta["fxprune"] = rewritten.report(plan, {})
        return module

    trials = tried({name: partial(slim, plan) for name, (plan, _) in different.items()}, target.model, images, options.seed)
    if trials is None:
        first[1].context.notes.append(_TOO_FEW)
        return first
    plan, rewritten = different[trials.chosen]
    rewritten.trials = trials
    assert plan.account is not None
    plan.account.notes.append(str(trials))
    return plan, rewritten


def _effects(
    target: Target, analysis: Analysis, options: PruneOptions, data: Any = None, batches: int | None = None, **other: Any
) -> dict[str, float] | None:
    """What the output loses with each branch, where there are images, and a model that is one graph."""
    if not options.branches or data is None or target.whole is not None:
        return None
    return branch_effects(target.model, analysis, data, batches)


def _within_budgets(
    rewritten: Rewritten, policy: Policy, analysis: Analysis, scores: Scores, choose: Callable[..., Any]
) -> tuple[Rewritten, Account]:
    """What cannot be rewritten stays whole: then the others are chosen again, so that the budgets are met."""
    frozen: dict[str, str] = {}
    while rewritten.frozen:
        frozen |= rewritten.frozen
        scores = {name: found for name, found in scores.items() if name not in frozen}
        rewritten = rewrite(analysis, choose(policy, analysis, scores), policy.options.passes)
    rewritten.frozen.update(frozen)
    return rewritten, account_of(rewritten.cut, policy, scores)


def replay(model: Any, plan: Plan, clock: Clock) -> tuple[Target, Rewritten]:
    """Rewrite a model on shapes as a plan says.

    Raises:
        PlanMismatch: the plan was made for another model, or contradicts itself.
        InputError: it was made without a graph.
    """
    if checked_plan(plan).options.get("watched"):
        raise InputError(
            "no graph can hold the model that the plan was made for: give form='module' (in a shell, --form module)"
        )
    target = Target.of_plan(model, checked_plan(plan))
    analysis = target.analyze(plan.settings.attention, plan.settings.ignore)
    clock("analyze")
    rewritten = rewrite(analysis, plan.cuts(analysis), plan.settings.passes)
    if listed(rewritten.cut.tensors) != plan.kept:
        raise PlanMismatch(
            "the plan contradicts itself: its groups and its kept indices differ (settle it: fxprune.revise(model, plan))"
        )
    clock("rewrite")
    return target, rewritten


def finish(target: Target, plan: Plan, rewritten: Rewritten, verify: bool, clock: Clock) -> fx.GraphModule | nn.Module:
    """Fill in the weights, prove the result, and report."""
    if verify:
        check_values(target.model, "leave the comparison out, verify=False")
    slim, parts = target.fill(rewritten)
    clock("slice")
    report = rewritten.report(plan, clock.seconds)
    if verify:
        report.checks = check_rewrite(rewritten.cut, target.model, slim)
        clock("verify")
    if rewritten.cut.analysis.latency is not None:
        from fxprune.profiling.using import timed

        report.latency = timed(rewritten, target.model, report.notes)
        clock("measure")
    return target.hand_over(slim, parts, report, check=verify)
