"""The pipeline on one page: trace -> analyze -> score -> select -> rewrite -> verify.

In the examples, ``net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2))`` and ``x = torch.zeros(1, 8)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import Tensor, fx, nn

from fxprune.deciding import decide, finish, replay
from fxprune.inputs.acceptance import check_model, check_values
from fxprune.options import AttentionPolicy, Criterion, Form, Normalization, PruneOptions, Ratio, Scope, check_flag, check_form
from fxprune.planning.document import document_of
from fxprune.planning.explain import Answer, explain
from fxprune.planning.plan import Plan
from fxprune.planning.report import Checks, Clock, plan_of
from fxprune.recovery.repair.ranked import ranked
from fxprune.recovery.repair.verb import checked_repair, repaired
from fxprune.shrinking.verb import applied_own, pruned_own, verified
from fxprune.submodules.target import analyze, trace

__all__ = ["analyze", "apply", "plan", "prune", "trace", "verify", "why"]


def prune(
    model: nn.Module,
    ratio: Ratio | None = None,
    example_inputs: Any = None,
    *,
    macs: float | None = None,
    params: float | None = None,
    memory: float | str | None = None,
    latency: float | str | None = None,
    criterion: Criterion | None = None,
    scope: Scope = "global",
    normalization: Normalization | None = None,
    ignore: Iterable[str] = (),
    max_ratio: Ratio = 0.95,
    round_to: int | Mapping[str, int] | Literal["auto"] = 1,
    min_width: int | Mapping[str, int] = 1,
    attention: AttentionPolicy = "head_dim",
    verify: bool = True,
    seed: int = 0,
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    batches: int | None = None,
    submodules: str | Iterable[str] = (),
    exact_norms: bool = False,
    branches: bool | str | Iterable[str] = False,
    repair: Iterable[Any] | None = None,
    form: Form = "graph",
    profile: Any = None,
) -> fx.GraphModule | Any:
    """Return a smaller copy of `model` with its least important channels removed; `model` is untouched.

    >>> prune(net, 0.5, x).get_submodule("0")
    Linear(in_features=8, out_features=8, bias=True)

    Args:
        model: any `nn.Module` whose forward, or that of its `submodules`, is one graph; any that runs with ``form="module"``.
        ratio: fraction in (0, 1) of the prunable channels to remove, or ``{name pattern: fraction}``. Or, or with the latter:
        macs, params, memory: the most multiply-accumulates (of one sample), parameters and bytes of activations at the fullest
            moment (of one sample) that are kept: a fraction in (0, 1) of the model's own, or an amount above 1, as ``"2 MB"``.
        example_inputs: a tensor, a tuple or a dict of inputs; only shapes and dtypes matter. Inferred for timm and torchvision.
        criterion: a registered name (`fxprune.criteria.names`), or a callable ``(group, tensors) -> scores``. None: ``"l2"``,
            and ``"surgeon"`` where a repair follows, whose images it observes if there are no `data`.
        scope: ``"global"``, one ranking over all groups; ``"isomorphic"``, one a kind of group; ``"layer"``, an equal share.
        normalization: of scores for one ranking: ``"max"``, ``"mean"``, ``"l2"``, ``"gaussian"``, ``"none"``; None: what suits.
        ignore: names or globs of modules or parameters that keep all their channels.
        max_ratio, round_to, min_width: the largest share that a group loses, of what it keeps a multiple (``"auto"``: of what
            is fast), and the least; or one each for patterns of names or classes of layers: ``{"Linear": 16, "stage3.*": 8}``.
        attention: what attention gives up: ``"head_dim"``, ``"heads"``, ``"both"`` or ``"none"``.
        verify: compare the result with the masked original on the example input.
        seed: of the random choices; the same seed gives the same plan, byte for byte.
        data: for criteria that observe the model at work: any iterable of batches (inputs, or inputs and labels).
        loss: for criteria that use gradients: a function of output and labels; cross entropy if not given.
        batches: observe so many batches at most.
        submodules: names or globs of parts of a model that cannot be recorded whole (``["backbone"]``); outputs stay whole.
        exact_norms: layer, RMS and group norms count channels that went as zeros, and compute what they would if these were 0.
        branches: under a budget residual branches may go as a whole, too; or those of these names and globs alone.
        repair: unlabelled images, a tensor or batches, from which `fxprune.repair` (as it is by default) fits what is left.
            Under budgets they also choose among several plans: that whose slim model, repaired from some, does best on others.
        form: ``"graph"``, or ``"module"``: the model's own classes, as `fxprune.shrink` makes them; without a graph if need be.
        profile: for `latency` and ``round_to="auto"``: what `fxprune.profile` gave, or its file; else it is called (eager).

    Returns:
        A trainable GraphModule in the model's mode, with its parameter names; ``slim.meta["fxprune"]`` is the `Report`. Of
        `submodules` or a form, a copy of the model, and one report; to keep it, store plan and state_dict.

    Raises:
        InputError: an argument is out of range or names nothing, or no choice of channels meets the budgets.
        TraceError, NothingToPrune: the forward cannot be recorded as one graph; no channel may go.
        NotEquivalent: the result differs from the masked original (a bug in fxprune: please report it).
    """
    clock, verify, form, repair = Clock(), check_flag(verify, "verify"), check_form(form), checked_repair(repair, submodules)
    rest = (normalization, exact_norms, macs, params, memory, latency, branches, min_width)
    by = ranked(criterion, data, repair, rest[2:6])
    options = PruneOptions(ratio, by.criterion, scope, ignore, max_ratio, round_to, attention, seed, *rest)
    what, seen = (model, submodules, example_inputs), {"data": by.data, "loss": loss, "batches": batches}

    def graph(hints: bool = True) -> tuple[Any, ...]:
        target, made, rewritten = decide((*what, hints), options, clock, profile, by.images, **seen)
        return target, rewritten, repaired(by.told(finish(target, made, rewritten, verify, clock)), model, by.images)

    return graph()[2] if form == "graph" else pruned_own(graph, (what, options), (clock, verify, repair), seen)


def plan(
    model: nn.Module,
    ratio: Ratio | None = None,
    example_inputs: Any = None,
    *,
    macs: float | None = None,
    params: float | None = None,
    memory: float | str | None = None,
    latency: float | str | None = None,
    criterion: Criterion = "l2",
    scope: Scope = "global",
    normalization: Normalization | None = None,
    ignore: Iterable[str] = (),
    max_ratio: Ratio = 0.95,
    round_to: int | Mapping[str, int] | Literal["auto"] = 1,
    min_width: int | Mapping[str, int] = 1,
    attention: AttentionPolicy = "head_dim",
    seed: int = 0,
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    batches: int | None = None,
    submodules: str | Iterable[str] = (),
    exact_norms: bool = False,
    branches: bool | str | Iterable[str] = False,
    profile: Any = None,
) -> Plan:
    """Say what `prune` would remove, without doing it (nor a repair). Arguments and errors are those of `prune`.

    >>> len(plan(net, 0.25, x).group("0.weight").kept)
    12
    """
    rest = (normalization, exact_norms, macs, params, memory, latency, branches, min_width)
    options = PruneOptions(ratio, criterion, scope, ignore, max_ratio, round_to, attention, seed, *rest)
    return decide((model, submodules, example_inputs), options, Clock(), profile, data=data, loss=loss, batches=batches)[1]


def apply(model: nn.Module, plan: Plan, *, verify: bool = True, form: Form = "graph") -> fx.GraphModule | Any:
    """Remove what a plan does from `model`, which may hold other weights than those it was made from; `form` is `prune`'s.

    >>> apply(net, plan(net, 0.5, x)).get_submodule("1")
    Linear(in_features=8, out_features=2, bias=True)

    Raises:
        PlanMismatch: the plan was made for another model.
    """
    clock, verify = Clock(), check_flag(verify, "verify")
    if check_form(form) == "module":
        return applied_own(model, plan, clock, verify)
    target, rewritten = replay(model, plan, clock)
    return finish(target, plan, rewritten, verify, clock)


def why(
    model_or_plan: nn.Module | Plan, layer: str, example_inputs: Any = None, *, submodules: str | Iterable[str] = ()
) -> Answer:
    """Say whether a module or parameter is pruned, protected or frozen, what it is coupled with, and which operation decided.

    >>> why(net, "1", x).status
    'frozen'
    """
    if (known := plan_of(model_or_plan)) is not None:
        return explain(known, layer)
    check_model(model_or_plan)
    assert isinstance(model_or_plan, nn.Module)
    analysis = analyze(model_or_plan, example_inputs, submodules=submodules)
    return explain(document_of(model_or_plan, analysis.cut(), {}), layer, analysis)


def verify(model: nn.Module, slim: nn.Module, example_inputs: Any = None, *, latency: bool = True, seed: int = 0) -> Checks:
    """Prove a slim model against its original and measure both.

    Permutation invariance of every group of the original, and masked equivalence of the slim model, on random weights; MACs,
    parameters and (if asked) latency. Where submodules were pruned, all of this is of these, on the inputs that they got.

    >>> verify(net, prune(net, 0.5, x), latency=False).passed
    True

    Raises:
        InputError: `slim` does not come from `prune` or `apply` on a model like this one.
    """
    check_model(model)
    check_values(model, "compare filled models")
    return verified(model, slim, example_inputs, latency, seed)
