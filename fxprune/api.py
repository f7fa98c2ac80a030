"""The pipeline on one page: trace -> analyze -> score -> select -> rewrite -> verify."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxprune.analysis.analysis import Analysis, analyze_model
from fxprune.criteria import prepare, resolve
from fxprune.errors import InputError, NotEquivalent, NothingToPrune, PlanMismatch
from fxprune.inputs.examples import example_of, settle_inputs
from fxprune.labels.solver import AttentionPolicy
from fxprune.planning.explain import Answer, explain
from fxprune.planning.plan import GroupPlan, Plan, fingerprint
from fxprune.planning.report import Checks, Report, report_of
from fxprune.planning.selection import Ratio, Scope, select
from fxprune.rewrite import Rewritten, rewrite, with_weights
from fxprune.state import ties
from fxprune.submodules.hints import naming_submodules
from fxprune.submodules.parts import Submodules

__all__ = ["analyze", "apply", "plan", "prune", "trace", "verify", "why"]

Criterion = str | Callable[..., Any]


def prune(
    model: nn.Module,
    ratio: Ratio,
    example_inputs: Any = None,
    *,
    criterion: Criterion = "l2",
    scope: Scope = "global",
    ignore: Iterable[str] = (),
    max_ratio: float = 0.95,
    round_to: int = 1,
    attention: AttentionPolicy = "head_dim",
    verify: bool = True,
    seed: int = 0,
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    batches: int | None = None,
    submodules: str | Iterable[str] = (),
) -> fx.GraphModule | Any:
    """Return a smaller copy of `model` with its least important channels removed; `model` is untouched.

    Args:
        model: any `nn.Module` whose forward, or that of its `submodules`, can be recorded as one graph.
        ratio: fraction in (0, 1) of the prunable channels to remove, or ``{name pattern: fraction}``.
        example_inputs: a tensor, a tuple of positional inputs or a dict of keyword inputs, of which only shapes and
            dtypes matter. Inferred for timm and torchvision models.
        criterion: a registered name (`fxprune.criteria.names`), or a callable ``(group, tensors) -> scores``.
        scope: ``"global"``, one ranking over all groups, or ``"layer"``, each group gives up the ratio.
        ignore: names or globs of modules or parameters that keep all their channels.
        max_ratio: no group loses more than this.
        round_to: kept channels of each group are a multiple of this.
        attention: what attention gives up: ``"head_dim"``, ``"heads"``, ``"both"`` or ``"none"``.
        verify: compare the result with the masked original on the example input.
        seed: of the random choices; the same seed gives the same plan, byte for byte.
        data: for criteria that observe the model at work: any iterable of batches (inputs, or inputs and labels).
        loss: for criteria that use gradients: a function of output and labels; cross entropy if not given.
        batches: observe so many batches at most.
        submodules: names or globs of modules of a model that cannot be recorded whole, such as a detector
            (``["backbone"]``). Each is recorded on the inputs that it gets when the model runs on the example; ratio and
            scope hold for all of them together; their outputs keep all channels, as the rest of the model reads them.

    Returns:
        A trainable GraphModule in the model's mode, with its parameter names; ``slim.meta["fxprune"]`` is the `Report`.
        With `submodules`, a copy of the model in which those are GraphModules; `report.macs_before` and the like count
        these alone, for one entry of the first one's input. To keep it, store the report's plan and the state_dict:
        ``apply(model, plan, verify=False)`` makes a model that takes them. ``fxprune.save`` writes one submodule.

    Raises:
        InputError: an argument is out of range or names nothing.
        TraceError: the forward cannot be recorded as one graph.
        NothingToPrune: no channel may go.
        NotEquivalent: the result differs from the masked original (a bug in fxprune: please report it).
    """
    clock = _Clock()
    observed = (data, loss, batches)
    target, made, analysis, rewritten = _plan(
        model,
        ratio,
        example_inputs,
        criterion,
        scope,
        ignore,
        max_ratio,
        round_to,
        attention,
        seed,
        submodules,
        clock,
        observed,
    )
    return _finish(target, made, analysis, rewritten, verify, clock)


def plan(
    model: nn.Module,
    ratio: Ratio,
    example_inputs: Any = None,
    *,
    criterion: Criterion = "l2",
    scope: Scope = "global",
    ignore: Iterable[str] = (),
    max_ratio: float = 0.95,
    round_to: int = 1,
    attention: AttentionPolicy = "head_dim",
    seed: int = 0,
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    batches: int | None = None,
    submodules: str | Iterable[str] = (),
) -> Plan:
    """Say what `prune` would remove, without doing it. Arguments and errors are those of `prune`."""
    observed = (data, loss, batches)
    return _plan(
        model,
        ratio,
        example_inputs,
        criterion,
        scope,
        ignore,
        max_ratio,
        round_to,
        attention,
        seed,
        submodules,
        _Clock(),
        observed,
    )[1]


def apply(model: nn.Module, plan: Plan, *, verify: bool = True) -> fx.GraphModule | Any:
    """Remove the channels of a plan from `model`, which may hold other weights than those it was made from.

    A plan for submodules gives what `prune` with these submodules does.

    Raises:
        PlanMismatch: the plan was made for another model.
    """
    clock = _Clock()
    whole = Submodules.of_plan(model, plan)
    target = _Target(model if whole is None else whole.parts, whole)
    if fingerprint(target.model) != plan.fingerprint:
        raise PlanMismatch(
            f"the plan was made for a {plan.model} with other parameters than this {type(model).__name__}: "
            "names or shapes differ"
        )
    args, named = example_of(plan.example)
    options = plan.options
    analysis = analyze_model(target.model, args, named, attention=options["attention"], ignore=options["ignore"])
    clock("analyze")
    gone = {}
    for entry in plan.groups:
        if not entry.removed:
            continue
        group = analysis.group(entry.id) if any(g.id == entry.id for g in analysis.free) else None
        if group is None or group.size != entry.size:
            raise PlanMismatch(
                f"the plan removes channels of a group {entry.id!r} of {entry.size}, which the model does not have"
            )
        gone[entry.id] = np.asarray(entry.removed)
    rewritten = rewrite(analysis, gone)
    removed = analysis.removed(rewritten.gone)
    if _listed(analysis.kept_tensors(removed)) != plan.kept:
        raise PlanMismatch("the plan contradicts itself: its groups and its kept indices differ")
    clock("rewrite")
    return _finish(target, plan, analysis, rewritten, verify, clock)


def analyze(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    ignore: Iterable[str] = (),
    attention: AttentionPolicy = "head_dim",
    submodules: str | Iterable[str] = (),
) -> Analysis:
    """Find the coupled channels of `model`, or of its `submodules` (see `prune`): ``.groups`` with members and roles,
    ``.graph`` for networkx."""
    target = _target(model, submodules, example_inputs)
    args, named = settle_inputs(target.model, target.inputs)
    with naming_submodules(target.model, args, named):
        return analyze_model(target.model, args, named, attention=_attention(attention), ignore=_patterns(ignore))


def why(
    model_or_plan: nn.Module | Plan, layer: str, example_inputs: Any = None, *, submodules: str | Iterable[str] = ()
) -> Answer:
    """Say of a layer (module or parameter name) whether it is pruned, protected or frozen, with what it is coupled,
    and which operation decided. A slim model from `prune` or a plan answers from its plan."""
    if isinstance(model_or_plan, Plan):
        return explain(model_or_plan, layer)
    report = report_of(model_or_plan)
    if report is not None:
        return explain(report.plan, layer)
    analysis = analyze(model_or_plan, example_inputs, submodules=submodules)
    return explain(_document(model_or_plan, analysis, {}, {}, {}), layer, analysis)


def trace(model: nn.Module, example_inputs: Any = None) -> fx.GraphModule:
    """Record `model` as a GraphModule of torch.nn leaves, with copies of its tensors; nothing is removed.

    Batch size and the spatial sizes that the model leaves free stay free; ``train()`` and ``eval()`` keep their meaning.
    """
    from fxprune.state import clone_tensors
    from fxprune.tracing.module import build
    from fxprune.tracing.tracer import trace_graph

    args, named = settle_inputs(model, example_inputs)
    with naming_submodules(model, args, named):
        traced = trace_graph(model, args, named)
    module, _ = build(traced, model, traced.constants)
    clone_tensors(module)
    module.recompile()
    return module


def verify(model: nn.Module, slim: nn.Module, example_inputs: Any = None, *, latency: bool = True, seed: int = 0) -> Checks:
    """Prove a slim model against its original and measure both.

    Permutation invariance of every group of the original, and masked equivalence of the slim model, each on the user's
    weights and on random ones; MACs, parameters and (if asked) latency. Where submodules were pruned, all of this is of
    these, on the inputs that they got.

    Raises:
        InputError: `slim` does not come from `prune` or `apply` on a model like this one.
    """
    from fxprune.proofs.verify import verify_pair

    report = report_of(slim)
    whole = None if report is None else Submodules.of_plan(model, report.plan)
    if whole is None:
        return verify_pair(model, slim, example_inputs, latency=latency, seed=seed)
    if example_inputs is not None:
        whole = Submodules.of(model, list(whole.calls), example_inputs)
    return verify_pair(whole.parts, whole.joined_from(slim), whole.inputs, latency=latency, seed=seed)


# -- steps ---------------------------------------------------------------------------------------------------------------


class _Clock:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = round(now - self._last, 4)
        self._last = now


@dataclass(frozen=True, eq=False)
class _Target:
    """What is traced and pruned: the user's model, or the named submodules of it as one module."""

    model: nn.Module
    whole: Submodules | None
    inputs: Any = None


def _target(model: nn.Module, submodules: str | Iterable[str], example_inputs: Any) -> _Target:
    names = (submodules,) if isinstance(submodules, str) else tuple(submodules)
    if not names:
        return _Target(model, None, example_inputs)
    whole = Submodules.of(model, names, example_inputs)
    return _Target(whole.parts, whole, whole.inputs)


def _plan(
    model: nn.Module,
    ratio: Ratio,
    example_inputs: Any,
    criterion: Criterion,
    scope: Scope,
    ignore: Iterable[str],
    max_ratio: float,
    round_to: int,
    attention: AttentionPolicy,
    seed: int,
    submodules: str | Iterable[str],
    clock: _Clock,
    observed: tuple[Iterable[Any] | None, Callable[[Any, Any], Tensor] | None, int | None] = (None, None, None),
) -> tuple[_Target, Plan, Analysis, Rewritten]:
    patterns = _patterns(ignore)
    _check_options(model, ratio, scope, max_ratio, round_to)
    policy, score = _attention(attention), resolve(criterion, seed)
    target = _target(model, submodules, example_inputs)
    if target.whole is not None and getattr(score, "needs_data", False):
        raise InputError(
            "a criterion that observes the model at work needs it as one graph: with submodules=[...] use one "
            "that reads weights alone"
        )
    model = target.model
    args, named = settle_inputs(model, target.inputs)
    with naming_submodules(model, args, named):
        analysis = analyze_model(model, args, named, attention=policy, ignore=patterns)
    clock("analyze")
    if not analysis.free:
        raise NothingToPrune(_nothing(analysis))
    tensors: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    data, loss, batches = observed
    prepare(score, model, analysis, data, loss=loss, batches=batches)
    with torch.no_grad():
        scores = {g.id: _scores(score(g, tensors), g.id, g.size) for g in analysis.free}
    gone = select(analysis.free, scores, ratio, scope, max_ratio, round_to, analysis.exclusive)
    clock("score and select")
    rewritten = rewrite(analysis, gone)
    clock("rewrite")
    options = {
        "ratio": dict(ratio) if isinstance(ratio, Mapping) else ratio,
        "criterion": criterion if isinstance(criterion, str) else getattr(criterion, "__name__", type(criterion).__name__),
        "scope": scope,
        "ignore": list(patterns),
        "max_ratio": max_ratio,
        "round_to": round_to,
        "attention": attention,
        "seed": seed,
    }
    if target.whole is not None:
        options["submodules"] = target.whole.described()
    return target, _document(model, analysis, rewritten.gone, options, scores, rewritten.refused), analysis, rewritten


def _document(
    model: nn.Module,
    analysis: Analysis,
    gone: Mapping[str, np.ndarray],
    options: dict[str, Any],
    scores: Mapping[str, np.ndarray],
    refused: Mapping[str, str] | None = None,
) -> Plan:
    removed = analysis.removed(gone)
    groups = []
    for g in analysis.groups:
        lost = set(gone[g.id].tolist()) if g.status == "free" and g.id in gone else set()
        reason = (refused or {}).get(g.id) or _spared(analysis, g.id, gone) if g.status == "free" else g.reason
        groups.append(
            GroupPlan(
                id=g.id,
                size=g.size,
                status="frozen" if reason and g.status == "free" else g.status,
                reason=reason,
                exact=g.exact,
                members=[(m.name, m.axis, m.role) for m in g.members],
                kept=[c for c in range(g.size) if c not in lost],
                scores=[float(f"{s:.6g}") for s in scores[g.id]] if g.status == "free" and g.id in scores else None,
            )
        )
    args, named = analysis.traced.inputs
    return Plan(
        model=type(model).__name__,
        fingerprint=fingerprint(model),
        options=options,
        groups=groups,
        kept=_listed(analysis.kept_tensors(removed)),
        macs=(analysis.macs(), analysis.macs(removed)),
        params=(analysis.params(), analysis.params(removed)),
        whole=analysis.whole,
        tied=ties(model),
        example=_example(args, named),
    )


def _spared(analysis: Analysis, name: str, gone: Mapping[str, np.ndarray]) -> str:
    """Why a free group loses nothing although others do, if that is because of the groups that exclude it."""
    others = sorted(analysis.exclusive.get(name, set()) & set(gone))
    if name in gone or not others:
        return ""
    return f"a grouped convolution loses whole groups or channels within them, and {others[0]!r} is cheaper in saliency"


def _finish(
    target: _Target, plan: Plan, analysis: Analysis, rewritten: Rewritten, verify: bool, clock: _Clock
) -> fx.GraphModule | nn.Module:
    model, whole = target.model, target.whole
    slim = with_weights(rewritten, model)
    if whole is not None:
        parts = whole.split(slim, analysis.traced.skeleton)
        slim = whole.join(parts)  # so that the check is of what is put back
    clock("slice")
    report = Report(plan, {k: dict(v) for k, v in rewritten.context.counters.items()}, rewritten.refused)
    if verify:
        from fxprune.proofs.verify import masked_error_and_tolerance

        error, tolerance = masked_error_and_tolerance(analysis, rewritten.context.removed, model, slim)
        pruned = [analysis.group(name) for name in rewritten.gone]
        report.checks = Checks(
            masked_error=error,
            exact_groups=sum(g.exact for g in pruned),
            statistics_groups=sum(not g.exact for g in pruned),
            macs=plan.macs,
            params=plan.params,
            tolerance=tolerance,
        )
        clock("verify")
        if not error <= tolerance:
            raise NotEquivalent(
                f"the slim {plan.model} differs from the masked original by {error:.2e} (relative), above {tolerance:.0e}: "
                "this is a bug in fxprune, please report the model and the options"
            )
    report.seconds = clock.seconds
    if whole is not None:
        return whole.put_back(parts, report, check=verify)
    slim.meta["fxprune"] = report
    return slim


def _listed(kept: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, dict[int, list[int]]]:
    return {name: {axis: ids.tolist() for axis, ids in axes.items()} for name, axes in kept.items()}


def _example(args: Any, named: Mapping[str, Any]) -> list[dict[str, Any]]:
    from fxprune.inputs.examples import describe

    return describe(args, named)


def _scores(found: Any, name: str, size: int) -> np.ndarray:
    scores = found.detach().double().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found, np.float64)
    if scores.shape != (size,):
        raise InputError(f"the criterion gave scores of shape {scores.shape} for group {name!r} of {size} channels")
    if not np.isfinite(scores).all():
        raise InputError(f"the criterion gave scores that are not finite for group {name!r}: check the model's weights")
    return scores


def _check_options(model: nn.Module, ratio: Ratio, scope: str, max_ratio: float, round_to: int) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be an nn.Module, not {type(model).__name__}")
    for value in ratio.values() if isinstance(ratio, Mapping) else (ratio,):
        low = isinstance(ratio, Mapping)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not (0 <= value < 1 if low else 0 < value < 1):
            raise InputError(f"ratio must be a fraction of the prunable channels between 0 and 1, not {value!r}")
    if scope not in ("global", "layer"):
        from fxprune.errors import nearest

        raise InputError(f"scope must be 'global' or 'layer', not {scope!r}{nearest(str(scope), ['global', 'layer'])}")
    if not isinstance(max_ratio, (int, float)) or not 0 < max_ratio <= 1 or math.isnan(max_ratio):
        raise InputError(f"max_ratio must be a fraction in (0, 1], not {max_ratio!r}")
    if not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1:
        raise InputError(f"round_to must be a whole number of at least 1, not {round_to!r}")


def _attention(policy: Any) -> AttentionPolicy:
    if policy not in ("head_dim", "heads", "both", "none"):
        raise InputError(f"attention must be 'head_dim', 'heads', 'both' or 'none', not {policy!r}")
    return policy


def _patterns(ignore: Iterable[str]) -> tuple[str, ...]:
    return (ignore,) if isinstance(ignore, str) else tuple(ignore)


def _nothing(analysis: Analysis) -> str:
    reasons = list(dict.fromkeys(f"{g.id}: {g.reason}" for g in analysis.groups))[:3]
    return f"no channel of {analysis.model_name} may be removed" + (f" ({'; '.join(reasons)})" if reasons else "")
