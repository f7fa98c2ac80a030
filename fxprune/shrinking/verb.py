"""`shrink`: the slim model in the user's own classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx, nn

from fxprune.deciding import replay
from fxprune.errors import InputError, shown
from fxprune.inputs.acceptance import check_model, check_values
from fxprune.options import check_flag
from fxprune.planning.plan import Plan
from fxprune.planning.report import Clock, report_of
from fxprune.rewrite import Rewritten
from fxprune.shrinking.building import build_own
from fxprune.state import named_tensors
from fxprune.submodules.target import Target

__all__ = ["own_class", "shrink"]


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
        if report is None:
            raise InputError(f"shrink takes a plan, or what prune or apply returned, not {shown(plan)}")
        slim, plan = plan, report.plan
    verify = check_flag(verify, "verify")
    check_values(model, "load weights before shrink")
    target, rewritten = replay(model, plan, clock)
    return own_class(target, rewritten, slim, (plan, clock), verify=verify)


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
    if slim is None:
        slim, _ = target.fill(rewritten)
    elif target.whole is not None:
        slim = target.whole.joined_from(slim)
    _check_alike(rewritten.module, slim)
    if report is None and planned is not None:
        report = rewritten.report(planned[0], planned[1].seconds)
    built = build_own(target.model, rewritten, slim, verify=verify)
    assert report is not None
    report = replace(report, own_class=built.did)
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
