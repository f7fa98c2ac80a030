"""All proofs and the numbers: what `fxprune.verify` does, and what `prune` checks of its result."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fxprune.analysis.analysis import analyze_model
from fxprune.analysis.cut import Cut
from fxprune.errors import InputError, NotEquivalent
from fxprune.inputs.examples import example_of, settle_inputs
from fxprune.planning.plan import Plan, fingerprint
from fxprune.planning.report import Checks, report_of
from fxprune.proofs.fidelity import check_fidelity
from fxprune.proofs.masked import masked_error
from fxprune.proofs.measure import count_macs, latency
from fxprune.proofs.permutation import permutation_error
from fxprune.proofs.precision import in_enough_precision
from fxprune.proofs.randomize import randomize
from fxprune.state import copied, deep_copy, named_tensors, replace_tensors, shallow_copy, sliced

__all__ = ["check_rewrite", "verify_pair"]


def verify_pair(model: nn.Module, slim: Any, example_inputs: Any, *, timed: bool, seed: int) -> Checks:
    """See `fxprune.verify`."""
    plan = _plan_of(slim)
    if fingerprint(model) != plan.fingerprint:
        raise InputError("slim was not made from a model like this one: names or shapes of parameters differ")
    args, named = example_of(plan.example) if example_inputs is None else settle_inputs(model, example_inputs)
    analysis = analyze_model(model, args, named, attention=plan.settings.attention, ignore=plan.settings.ignore)
    cut = analysis.cut(plan.gone(analysis.free))

    random = randomize(deep_copy(model), seed)
    fidelity = check_fidelity(analysis.traced, random, thorough=True, seed=seed)
    refilled = _refilled(slim, cut, random)

    def prove(dtype: torch.dtype) -> tuple[float, ...]:
        return permutation_error(analysis, random, seed, dtype), masked_error(cut, random, refilled, seed, dtype)

    (permuted, masked), tolerance = in_enough_precision(prove, random)
    checks = _checks_of(cut, masked, tolerance)
    checks.fidelity, checks.permutation_error = fidelity, permuted
    checks.flop_counter = (count_macs(model, analysis), count_macs(slim, analysis))
    if timed:
        checks.latency = latency(model, slim, analysis)
    return checks


def check_rewrite(cut: Cut, model: nn.Module, slim: fx.GraphModule) -> Checks:
    """Fidelity of the recording and masked equivalence, on the user's weights.

    Raises:
        Unfaithful: the recording computes something else than the model.
        NotEquivalent: the slim model computes something else.
    """
    fidelity = check_fidelity(cut.analysis.traced, model)
    (error,), tolerance = in_enough_precision(lambda dtype: (masked_error(cut, model, slim, dtype=dtype),), model)
    if not error <= tolerance:
        raise NotEquivalent(
            f"the slim {cut.analysis.model_name} differs from the masked original by {error:.2e} (relative), above "
            f"{tolerance:.0e}: this is a bug in fxprune, please report the model and the options"
        )
    checks = _checks_of(cut, error, tolerance)
    checks.fidelity = fidelity
    return checks


def _checks_of(cut: Cut, masked: float, tolerance: float) -> Checks:
    pruned = [cut.analysis.group(name) for name in cut.gone]
    return Checks(
        masked_error=masked,
        exact_groups=sum(g.exact for g in pruned),
        statistics_groups=sum(not g.exact for g in pruned),
        macs=(cut.analysis.macs(), cut.macs),
        params=(cut.analysis.params(), cut.params),
        tolerance=tolerance,
    )


def _refilled(slim: fx.GraphModule, cut: Cut, model: nn.Module) -> fx.GraphModule:
    """The graph of `slim` with the kept weights of `model`."""
    source = named_tensors(model)
    new = shallow_copy(slim)
    replace_tensors(
        new,
        {
            id(t): copied(t, sliced(source[n], cut.tensors.get(n, {})))
            for n, t in (*new.named_parameters(), *new.named_buffers())
            if n in source
        },
    )
    return new


def _plan_of(slim: Any) -> Plan:
    report = report_of(slim) if isinstance(slim, fx.GraphModule) else None
    if report is None:
        raise InputError("slim must be the GraphModule, or model with pruned submodules, of fxprune.prune or fxprune.apply")
    return report.plan
