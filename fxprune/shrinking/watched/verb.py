"""Prune a model that no graph can hold, in its own class: watch, score, choose, slice, compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from fxprune.analysis.cut import Cut
from fxprune.criteria import Criterion, normalization_of, resolve, score_groups
from fxprune.errors import InputError, NotEquivalent, PlanMismatch
from fxprune.inputs.acceptance import check_values
from fxprune.inputs.examples import example_of, settle_inputs
from fxprune.options import PruneOptions
from fxprune.planning.accounting import account_of
from fxprune.planning.document import document_of, listed
from fxprune.planning.nothing import why_nothing
from fxprune.planning.own_class import OwnClass
from fxprune.planning.plan import Plan, fingerprint
from fxprune.planning.policies import Scores, chosen, policy_of
from fxprune.planning.report import Checks, Clock, Report
from fxprune.proofs.precision import tolerance_of
from fxprune.shrinking.watched.analysis import Watched, watch
from fxprune.shrinking.watched.calls import Example
from fxprune.shrinking.watched.fitting import Fitted, Gone, compared, fit_watched
from fxprune.shrinking.watched.permuting import permuted_error
from fxprune.shrinking.watched.slimming import Chosen, slim_copy
from fxprune.shrinking.watched.unwatched import check_unwatched
from fxprune.state import named_parts, set_modes
from fxprune.tracing.untouched import untouched

__all__ = ["apply_watched", "is_watched", "prune_watched", "verify_watched"]

_MARK = "watched"  # the option that a plan of such a model has


def is_watched(plan: Plan) -> bool:
    """Whether a plan was made by watching a model that no graph can hold."""
    return bool(plan.options.get(_MARK))


def prune_watched(
    model: nn.Module, options: PruneOptions, example_inputs: Any, how: tuple[Clock, bool], why: str, **observed: Any
) -> nn.Module:
    """See `fxprune.prune` with ``form="module"``.

    Args:
        how: the clock, and whether channels change places, too. Operators are compared in any case.
        why: the model could not be recorded.
        observed: data, loss and batches for criteria, which have to read weights alone here.

    Raises:
        InputError: an option needs a graph, or the model fails on the example inputs.
        NotEquivalent: the slim model cannot be shown to compute what the dense one does.
    """
    clock, thorough = how
    policy, criterion = policy_of(options), resolve(options.criterion, options.seed)
    _check(options, criterion, why)
    check_values(model, "watch a model with values")
    with untouched(model):
        watched = _watched(model, example_inputs, options, why)
        clock("watch")
        scores = score_groups(criterion, model, watched.analysis, options.normalization, **observed)

        def choose(frozen: Mapping[str, str]) -> Gone:
            left: Scores = {name: found for name, found in scores.items() if name not in frozen}
            return dict(chosen(policy, watched.analysis, left))

        def lowest(name: str, count: int) -> np.ndarray:
            return np.asarray(policy.lowest(watched.analysis.group(name), scores[name], count))

        gone = dict(chosen(policy, watched.analysis, scores))
        clock("score and select")
        fitted = fit_watched(watched, gone, choose) if options.budgets else fit_watched(watched, gone, None, lowest)
        clock("compare")
        checks = _checks(watched, fitted, thorough)
        clock("permute")
        slim = _result(watched, fitted)
    account = account_of(fitted.cut, policy, _without(scores, fitted.frozen)) if options.budgets else None
    stored = options.to_json() | {"normalization": normalization_of(criterion, options.normalization), _MARK: True}
    plan = document_of(model, fitted.cut, stored, scores, fitted.frozen, account)
    notes = [*(criterion.notes if isinstance(criterion, Criterion) else ()), *(account.notes if account else ())]
    return _reported(slim, _Made(watched, fitted, plan, checks), clock, why, notes)


def apply_watched(model: nn.Module, plan: Plan, how: tuple[Clock, bool]) -> nn.Module:
    """See `fxprune.apply`: a plan that was made by watching a model.

    Raises:
        PlanMismatch: the plan was made for another model, or the model is not alike with what it removes.
    """
    clock, thorough = how
    check_values(model, "load weights before it")
    with untouched(model):
        watched, cut = _replayed(model, plan, None)
        clock("watch")
        fitted = fit_watched(watched, dict(cut.gone))
        if fitted.frozen:
            name, reason = next(iter(fitted.frozen.items()))
            raise PlanMismatch(f"the model is not alike without the channels of {name!r} that the plan removes: {reason}")
        clock("compare")
        checks = _checks(watched, fitted, thorough)
        slim = _result(watched, fitted)
    return _reported(slim, _Made(watched, fitted, plan, checks), clock, "", [])


def verify_watched(model: nn.Module, slim: nn.Module, plan: Plan, example_inputs: Any, seed: int) -> Checks:
    """See `fxprune.verify`: the slim model's own modules, filled with what remains of the weights of `model` and of random
    ones, beside the dense model, operator by operator; and permutation invariance. Nothing is timed.

    Raises:
        PlanMismatch: the slim model was made from another model.
    """
    with untouched(model, slim):
        watched, cut = _replayed(model, plan, example_inputs)
        try:
            fitted = compared(watched, cut, Chosen(made=slim))
        except NotEquivalent:
            fitted = Fitted(cut, Chosen(), {"": "they are not alike"})
        return _checks(watched, fitted, True, seed)


def _replayed(model: nn.Module, plan: Plan, example_inputs: Any) -> tuple[Watched, Cut]:
    """A model that is watched again, and what a plan removes of it."""
    if fingerprint(model) != plan.fingerprint:
        raise PlanMismatch(
            f"the plan was made for a {plan.model} with other parameters than this {type(model).__name__}: names or shapes "
            "differ"
        )
    args, named = example_of(plan.example) if example_inputs is None else settle_inputs(model, example_inputs)
    watched = watch(model, Example.of(model, args, named), plan.settings.attention, plan.settings.ignore)
    cut = watched.analysis.cut(plan.cuts(watched.analysis))
    if listed(cut.tensors) != plan.kept:
        raise PlanMismatch("the plan is not for what this model does on these inputs: its kept indices differ")
    return watched, cut


@dataclass(frozen=True, eq=False)
class _Made:
    watched: Watched
    fitted: Fitted
    plan: Plan
    checks: Checks


def _watched(model: nn.Module, example_inputs: Any, options: PruneOptions, why: str) -> Watched:
    args, named = settle_inputs(model, example_inputs)
    if not isinstance(getattr(model, "meta", {}), dict):
        raise InputError("the model has an attribute 'meta' of its own, where the report goes: rename it")

    def look(args: tuple[Any, ...]) -> Watched:
        return watch(model, Example.of(model, args, named), options.attention, tuple(options.ignore), why)

    try:
        return look(args)
    except InputError:
        if not isinstance(example_inputs, list):
            raise
        return look((list(args),))  # the model fails on as many inputs: a list of images is one


def _check(options: PruneOptions, criterion: Any, why: str) -> None:
    """
    Raises:
        InputError: an option or the criterion needs a graph.
    """
    wrong = {
        "memory=": options.memory is not None,
        "latency=": options.latency is not None,
        "round_to='auto'": options.round_to == "auto",
        "branches=": bool(options.branches),
        "exact_norms=": options.exact_norms,
        f"the criterion {options.criterion_name!r}, which observes the model at work,": getattr(criterion, "needs_data", False),
    }
    for name, asked in wrong.items():
        if asked:
            raise InputError(
                f"{name} needs the model as one graph, and this one is pruned without: take ratio, macs or params, and a "
                f"criterion of weights, as 'l2' ({why})"
            )


def _without(scores: Scores, frozen: Mapping[str, str]) -> Scores:
    return {name: found for name, found in scores.items() if name not in frozen}


def _checks(watched: Watched, fitted: Fitted, thorough: bool, seed: int | None = None) -> Checks:
    """What was compared, and permutation invariance.

    Args:
        seed: of permutations that are reported as they are; None: of one that has to hold.

    Raises:
        NotEquivalent: the model does something else where channels of a group change places.
    """
    permuted = permuted_error(watched, watched.sessions[0], seed or 0) if thorough else None
    tolerance = tolerance_of(watched.example.dtype)
    if seed is None and permuted is not None and not permuted <= tolerance:
        raise NotEquivalent(
            f"{watched.analysis.model_name} computes something else where the channels of its groups change places (off by "
            f"{permuted:.1e}): they are not alike; keep layers with ignore=[...], and please report the model"
        )
    cut, whole = fitted.cut, watched.analysis.cut()
    pruned = [g for g in watched.analysis.free if len(cut.gone.get(g.id, np.zeros(0)))]
    found = [o.compared for o in fitted.outcomes if o.compared is not None]
    return Checks(
        permutation_error=permuted,
        masked_error=float("inf") if seed is not None and fitted.frozen else fitted.error,
        exact_groups=sum(g.exact for g in pruned),
        statistics_groups=sum(not g.exact for g in pruned),
        statistics=max((c.statistics for c in found), default=0),
        unreferenced=list(dict.fromkeys(name for c in found for name in c.unreferenced)),
        macs=(whole.macs, cut.macs),
        params=(whole.params, cut.params),
        tolerance=tolerance,
    )


def _result(watched: Watched, fitted: Fitted) -> nn.Module:
    """The user's model, smaller, in its own modes."""
    slim = slim_copy(watched.model, fitted.cut, watched.layers, fitted.chosen)
    check_unwatched(watched, slim)
    modes = {name: part.training for name, part in named_parts(watched.model)}
    set_modes((part, modes[name]) for name, part in named_parts(slim))
    return slim


def _reported(slim: nn.Module, made: _Made, clock: Clock, why: str, notes: list[str]) -> nn.Module:
    fitted, watched = made.fitted, made.watched
    did = OwnClass(tolerance=made.checks.tolerance)
    did.settings = {
        name: {str(one.slot): (one.old, one.new) for one in found} for name, found in fitted.chosen.settings.items()
    }
    did.errors = {o.session.name: o.compared.error for o in fitted.outcomes if o.compared is not None}
    operators = sum(o.compared.operators for o in fitted.outcomes if o.compared is not None)
    first = f"no graph can hold {watched.analysis.model_name}" + (f" ({why})" if why else "")
    told = [
        f"{first}: it was watched while it ran, and compared with the slim model at {operators} operators; what did not run is "
        "not known",
        *watched.notes,
        *(f"with {name} it was not compared, since the model does not take that" for name in fitted.skipped),
        *filter(None, [why_nothing(made.plan)]),
        *notes,
    ]
    report = Report(made.plan, frozen_by_rewrite=fitted.frozen, checks=made.checks, seconds=clock.seconds, notes=told)
    report.own_class = did
    slim.meta = {**getattr(slim, "meta", {}), "fxprune": report}  # type: ignore[assignment]
    return slim
