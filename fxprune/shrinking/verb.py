"""`shrink`: the slim model in the user's own classes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx, nn

from fxprune.deciding import replay
from fxprune.errors import InputError, TraceError, said, shown
from fxprune.inputs.acceptance import check_model, check_values
from fxprune.options import check_flag, check_seed
from fxprune.planning.plan import Plan, checked_plan
from fxprune.planning.report import Checks, Clock, check_unchanged, report_of
from fxprune.proofs.verify import verify_pair
from fxprune.rewrite import Rewritten
from fxprune.shrinking.building import build_own
from fxprune.shrinking.watched.verb import apply_watched, is_watched, prune_watched, verify_watched
from fxprune.state import named_tensors
from fxprune.submodules.target import Target, pair_of

__all__ = ["applied_own", "own_class", "pruned_own", "shrink", "verified"]

_RESCALED = "rescaled"  # the option of a plan whose weights have factors in them (`OwnClass.rescaled`)


def shrink(model: nn.Module, plan: Plan | nn.Module, *, verify: bool = True) -> Any:
    """Return a smaller copy of `model` in its own classes: the same modules, methods and attributes, with sliced tensors.

    Where `prune` gives a GraphModule, this gives what the libraries of the model go on with: trainers, ``generate``,
    ``save_pretrained``, ``forward_features``, exporters. Layers of torch.nn get their new sizes. Numbers that the model's own
    code holds (``self.num_heads``, ``self.head_dim``) are set where that makes a part compute what the GraphModule computes
    there, the fewest first; where its code works a size out from others (``C // self.num_heads``), that expression becomes the
    number; what cannot follow even so runs the generated code. `model` is untouched.

    >>> import fxprune
    >>> shrink(net, fxprune.plan(net, 0.5, x))
    Sequential(
      (0): Linear(in_features=8, out_features=8, bias=True)
      (1): Linear(in_features=8, out_features=2, bias=True)
    )

    Args:
        model: what the plan was made for, or a model like it with other weights.
        plan: a plan, which takes the kept weights of `model`; or what `prune` or `apply` returned, whose weights it takes: they
            may have been repaired and trained since.
        verify: compare the result with the GraphModule on random weights: outputs, gradients and buffers, in evaluation and in
            training, on another batch, and on other sizes that both take.

    Returns:
        A copy of the model; ``.meta["fxprune"]`` is the `Report`, whose `own_class` says what was set, and where.

    Raises:
        InputError: this is neither a plan nor a slim model, or the model has an attribute ``meta`` of its own.
        PlanMismatch: it was made for another model.
        NotEquivalent: the copy computes something else (a bug in fxprune: please report it).
    """
    check_model(model)
    slim, clock = None, Clock()
    if not isinstance(plan, Plan):
        report = report_of(plan)
        if report is not None and is_watched(report.plan):
            return plan  # it is in its own class
        if report is None:
            raise InputError(f"shrink takes a plan, or what prune or apply returned, not {shown(plan)}")
        check_unchanged(report, "shrink the model that it was made from")
        slim, plan = plan, report.plan
    verify = check_flag(verify, "verify")
    check_values(model, "load weights before shrink")
    if slim is None:
        return applied_own(model, plan, clock, verify)
    target, rewritten = replay(model, plan, clock)
    return own_class(target, rewritten, slim, (plan, clock), verify=verify)


def pruned_own(
    graph: Callable[[bool], tuple[Any, ...]], asked: tuple[Any, Any], how: tuple[Clock, bool, Any], seen: dict[str, Any]
) -> Any:
    """What `prune` gives with ``form="module"``: by the recorded graph, or, where none can hold the model, by watching it.

    Args:
        graph: makes target, rewrite and slim graph; told whether an error is to name the submodules that can be recorded.
        asked: model, submodules and example inputs; and the options.
        how: the clock, whether the result is compared with the graph, and the images of a repair.
        seen: what criteria observe.

    Raises:
        TraceError: submodules are named, and cannot be recorded.
        InputError: no graph can hold the model, and something was asked for that needs one.
    """
    ((model, submodules, example_inputs), options), (clock, verify, images) = asked, how
    try:
        target, rewritten, slim = graph(bool(submodules))
    except TraceError as error:
        if submodules:
            raise
        why = re.split(r"(?<=\S): |; ", said(error))[0][:200]  # without what to do about it
        if images is not None:
            raise InputError(
                f"repair= needs the model as one graph, and no graph can hold it ({why}): fine-tune it instead"
            ) from error
    else:
        return own_class(target, rewritten, slim, verify=verify)
    return prune_watched(model, options, example_inputs, (clock, verify), why, **seen)


def applied_own(model: nn.Module, plan: Plan, clock: Clock, verify: bool) -> nn.Module:
    """What `apply` gives with ``form="module"``."""
    if is_watched(checked_plan(plan)):
        return apply_watched(model, plan, (clock, verify))
    target, rewritten = replay(model, plan, clock)
    return own_class(target, rewritten, None, (plan, clock), verify=verify)


def verified(model: nn.Module, slim: nn.Module, example_inputs: Any, timed: Any, seed: Any) -> Checks:
    """See `fxprune.verify`: a slim model that was made without a graph is compared without one."""
    timed, seed = check_flag(timed, "latency"), check_seed(seed)
    report = report_of(slim)
    if report is not None and is_watched(report.plan):
        return verify_watched(model, slim, report.plan, example_inputs, seed)
    return verify_pair(*pair_of(model, slim, example_inputs), timed=timed, seed=seed)


def own_class(
    target: Target, rewritten: Rewritten, slim: Any = None, planned: tuple[Plan, Clock] | None = None, *, verify: bool = True
) -> nn.Module:
    """The model of a target in its own classes.

    Args:
        slim: what was made of it, whose tensors it gets; those of the target's model if it is not given. One of both is, with
        planned: by what, and since when.
    """
    if not isinstance(getattr(target.model, "meta", {}), dict):
        raise InputError("the model has an attribute 'meta' of its own, where the report goes: rename it")
    report = report_of(slim)
    plan = planned[0] if planned is not None else None if report is None else report.plan
    rescale = False if slim is None else None  # weights that belong to a plan have the factors that it names, and no others
    if plan is not None and _RESCALED in plan.options:
        rescale = bool(plan.options[_RESCALED])
    if slim is None:
        slim, _ = target.fill(rewritten)
    elif target.whole is not None:
        slim = target.whole.joined_from(slim)
    _check_alike(rewritten.module, slim)
    if report is None and planned is not None:
        report = rewritten.report(planned[0], planned[1].seconds)
    built = build_own(target.model, rewritten, slim, verify=verify, rescale=rescale)
    assert report is not None
    if built.did.rescaled:
        report = replace(report, plan=replace(report.plan, options=report.plan.options | {_RESCALED: True}))
    notes = [*report.notes, *([built.did.config_left] if built.did.config_left else [])]
    report = replace(report, own_class=built.did, notes=notes)
    if target.whole is None:
        built.model.meta = {**getattr(built.model, "meta", {}), "fxprune": report}  # type: ignore[assignment]
        return built.model
    parts = {name: built.model.get_submodule(name) for name in target.whole.names}
    return target.whole.put_back(parts, report, check=verify)


def _check_alike(planned: fx.GraphModule, slim: nn.Module) -> None:
    """
    Raises:
        InputError: the slim model has other tensors than its plan says.
    """
    here, there = ({n: tuple(t.shape) for n, t in named_tensors(m).items()} for m in (planned, slim))
    for name in (*here, *there):
        added = name not in here and name.endswith(".bias")  # of a layer that was repaired
        if here.get(name) != there.get(name) and not added:
            raise InputError(
                f"the slim model is not as its plan says ({name}: {there.get(name, 'missing')}, not "
                f"{here.get(name, 'missing')}): "
                "fold what was added to it (fxprune.fold), or shrink before"
            )
