"""All proofs and the numbers: what `fxprune.verify` does, and what `prune` checks of its result."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import fx, nn

from fxprune.analysis.analysis import analyze_model
from fxprune.analysis.cut import Cut
from fxprune.errors import InputError, NotEquivalent
from fxprune.inputs.examples import example_of, settle_inputs
from fxprune.planning.plan import fingerprint
from fxprune.planning.report import Checks, Report, check_unchanged, report_of
from fxprune.proofs.fidelity import prove_fidelity
from fxprune.proofs.masked import MaskedRun, SizesMixed, masked_run
from fxprune.proofs.measure import count_macs, latency
from fxprune.proofs.permutation import permutation_error
from fxprune.proofs.precision import in_enough_precision
from fxprune.proofs.randomize import randomize
from fxprune.proofs.vacuous import hides_faults
from fxprune.state import copied, named_tensors, replace_tensors, sliced
from fxprune.tracing.uncollected import uncollected
from fxprune.tracing.untouched import twin_of, untouched

__all__ = ["check_rewrite", "verify_pair"]


def verify_pair(model: nn.Module, slim: Any, example_inputs: Any, *, timed: bool, seed: int) -> Checks:
    """See `fxprune.verify`."""
    report = _report_of(slim)
    plan = report.plan
    if fingerprint(model) != plan.fingerprint:
        raise InputError("slim was not made from a model like this one: names or shapes of parameters differ")
    args, named = example_of(plan.example) if example_inputs is None else settle_inputs(model, example_inputs)
    analysis = analyze_model(model, args, named, attention=plan.settings.attention, ignore=plan.settings.ignore)
    cut = analysis.cut(plan.cuts(analysis))
    cut.exact_norms.update(report.exact_norms)

    with untouched(model, slim):
        random = randomize(twin_of(model, clone=True), seed)
        checks, hidden = _certified(cut, random, _refilled(slim, cut, random), seed=seed, thorough=True)
        if hidden:
            _also(checks, _certified(cut, model, _refilled(slim, cut, model), seed=seed)[0], hidden, "the model's own weights")
    with untouched(model, slim, watch=False):
        checks.flop_counter = (count_macs(model, analysis), count_macs(slim, analysis))
        if timed:
            checks.latency = latency(model, slim, analysis)
    return checks


@uncollected()
def check_rewrite(cut: Cut, model: nn.Module, slim: fx.GraphModule) -> Checks:
    """Fidelity of the recording and masked equivalence, on the user's weights.

    Raises:
        Unfaithful: the recording computes something else than the model.
        NotEquivalent: the slim model computes something else.
    """
    with untouched(model, slim):
        checks, hidden = _certified(cut, model, slim)
        if hidden:
            random = randomize(twin_of(model, clone=True))
            _also(checks, _certified(cut, random, _refilled(slim, cut, random))[0], hidden, "random weights")
    if not checks.passed:
        raise NotEquivalent(
            f"the slim {cut.analysis.model_name} differs from the masked original by {checks.masked_error:.2e} (relative), "
            f"above {checks.tolerance:.0e}: this is a bug in fxprune, please report the model and the options"
        )
    return checks


@uncollected()
def _certified(
    cut: Cut, model: nn.Module, slim: fx.GraphModule, *, seed: int = 0, thorough: bool = False
) -> tuple[Checks, list[str]]:
    """The errors found on the weights of a model, and why a fault could stay unseen on these; `thorough`: permutation, too.

    Raises:
        Unfaithful: the recording computes something else than the model.
    """
    analysis = cut.analysis
    proof = prove_fidelity(analysis.traced, model, thorough=thorough, seed=seed)
    others = [*proof.compared[:1], *proof.compared[1:][-1:]] if thorough else []
    runs: list[MaskedRun] = []

    def prove(dtype: torch.dtype) -> tuple[float, ...]:
        runs[:] = [masked_run(cut, model, slim, seed, dtype)]
        for trial in others:
            with suppress(SizesMixed, AssertionError):  # a size that the slim model refuses is refused, and no difference
                runs.append(masked_run(cut, model, slim, seed, dtype, trial.inputs))
        worst = max(run.error for run in runs)
        return (worst, permutation_error(analysis.full, model, seed, dtype)) if thorough else (worst,)

    (error, *permuted), tolerance = in_enough_precision(prove, model)
    checks = _checks_of(cut, error, tolerance)
    checks.fidelity, checks.permutation_error = proof.result, next(iter(permuted), None)
    checks.statistics, checks.unreferenced = len(runs[0].referenced) + len(runs[0].own), runs[0].own
    return checks, hides_faults(analysis.traced, model, proof.output, runs[0].expected)


def _also(checks: Checks, more: Checks, hidden: list[str], weights: str) -> None:
    """Add what was found on other weights to the checks on those that hide faults."""
    assert checks.fidelity is not None and more.fidelity is not None
    checks.fidelity.vacuous = hidden
    checks.fidelity.errors.update({f"{name}, {weights}": error for name, error in more.fidelity.errors.items()})
    checks.fidelity.tolerance = max(checks.fidelity.tolerance, more.fidelity.tolerance)
    share = more.tolerance / checks.tolerance  # the errors of one report have one limit
    checks.masked_error = max(checks.masked_error or 0.0, (more.masked_error or 0.0) / share)


def _checks_of(cut: Cut, masked: float, tolerance: float) -> Checks:
    pruned = [cut.analysis.group(name) for name in cut.gone]
    return Checks(
        masked_error=masked,
        exact_groups=sum(g.exact for g in pruned),
        statistics_groups=sum(not g.exact for g in pruned),
        macs=(cut.analysis.full.macs(), cut.macs),
        params=(cut.analysis.full.params(), cut.params),
        tolerance=tolerance,
    )


def _refilled(slim: fx.GraphModule, cut: Cut, model: nn.Module) -> fx.GraphModule:
    """The graph of `slim` with the kept weights of `model`."""
    source = named_tensors(model)
    new = twin_of(slim)
    replace_tensors(
        new,
        {
            id(t): copied(t, sliced(source[n], cut.tensors.get(n, {})))
            for n, t in (*new.named_parameters(), *new.named_buffers())
            if n in source
        },
    )
    return new


def _report_of(slim: Any) -> Report:
    report = report_of(slim) if isinstance(slim, fx.GraphModule) else None
    if report is None:
        raise InputError("slim must be the GraphModule, or model with pruned submodules, of fxprune.prune or fxprune.apply")
    check_unchanged(report, "verify the model that it was made from")
    return report
