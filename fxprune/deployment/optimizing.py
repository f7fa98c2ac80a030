"""`optimize`: a copy of a model for evaluation alone, with batch norms folded and what does nothing taken out."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.errors import InputError, NotEquivalent, PruneError
from fxprune.inputs.acceptance import check_model, check_values
from fxprune.inputs.examples import describe, example_of, own_copy, random_like, settle_inputs
from fxprune.passes.base import lint
from fxprune.passes.registry import names, pipeline
from fxprune.planning.report import check_graph, report_of
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize
from fxprune.state import deep_copy, place_of
from fxprune.submodules.target import trace
from fxprune.tracing.contexts.regions import entered
from fxprune.tracing.graphs.one_mode import restrict
from fxprune.tracing.untouched import seed_all, twin_of, untouched

__all__ = ["inputs_of", "optimize"]

_META = "optimized"
_FIRST = "keep-evaluation"
_EXACT = 1e-9  # of the rewrite, in float64
_ROUNDED = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the result, whose merged weights are rounded; less precise: 5 %
_WHY = "it was optimized for evaluation: batch norms are folded and dropout is gone; train the model that it was made from"


def optimize(model: nn.Module, example_inputs: Any = None, *, passes: Collection[str] | None = None) -> fx.GraphModule:
    """Return a copy of `model` for evaluation that computes the same with fewer operations; `model` is untouched.

    Batch norms are folded into the layers before them, dropout, identities and what runs in training alone are taken out,
    constant factors and summands of channels (layer scale) are folded, and two linear layers without anything between them
    become one where that takes no more multiply-accumulates. The copy refuses to run in training.

    >>> import fxprune
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.ReLU())
    >>> fast = fxprune.optimize(net, torch.zeros(1, 3, 8, 8))
    >>> [str(node.target) for node in fast.graph.nodes if node.op == "call_module"]
    ['0', '3']
    >>> fast.meta["optimized"]["passes"]["fold-norms"]
    {'norms folded': 1}

    Args:
        model: what `prune` gave, or any model whose forward can be recorded.
        example_inputs: as of `prune`; those of the plan if not given.
        passes: which, by name (``["fold-norms"]``); None: all. ``"keep-evaluation"`` always runs.

    Returns:
        A GraphModule in evaluation; ``meta["optimized"]`` says what each pass did (``passes``), and the relative difference of
        the output from the model's (``error``), both computed in float64. The report of a slim model stays, with what was done
        in ``optimized``.

    Raises:
        InputError: a pass is not known, or the inputs are not.
        TraceError: the forward cannot be recorded as one graph.
        NotEquivalent: the rewrite does not compute what the model does in evaluation (a bug: please report it).
    """
    check_model(model)
    check_graph(model, "optimize", "torch.compile takes it as it is")
    check_values(model, "optimize a filled model")
    wanted = _chosen(passes)
    args, named = inputs_of(model, example_inputs)
    with untouched(model, watch=False):
        source = model if isinstance(model, fx.GraphModule) else trace(model, (*args,) if not named else {**named})
        _prove(source, wanted, args, named)
        made = deep_copy(source).eval()
        said = _rewritten(made, wanted, args, named)
        error = _error(model, made, args, named)
    limit = _ROUNDED.get(place_of(model)[1], 5e-2)
    if not error <= limit:
        raise NotEquivalent(f"the optimized model differs from the original by {error:.1e} (relative), more than {limit:.0e}")
    restrict(made.graph, ["training"], False, _WHY)
    made.recompile()
    report = report_of(model)
    made.meta = {_META: {"passes": said, "error": error, "example": describe(args, named)}}
    if report is not None:  # a copy: what is noted of this model from now on is not true of the other
        before = report.optimized or {}
        made.meta["fxprune"] = replace(report, optimized={**before, **{name: did for name, did in said.items() if did}})
    return made


def inputs_of(model: nn.Module, example_inputs: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs of a model: those given, those of its plan, or those that are inferred.

    Those by keyword come in the order in which the model takes them, which is that of the inputs of a file.

    Raises:
        InputError: they are not known.
    """
    args, named = _known_inputs(model, example_inputs)
    order = {name: place for place, name in enumerate(inspect.signature(model.forward).parameters)}
    return args, dict(sorted(named.items(), key=lambda item: order.get(item[0], len(order))))


def _known_inputs(model: nn.Module, example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    meta = getattr(model, "meta", None)
    known = meta.get(_META) if isinstance(meta, Mapping) else None
    report = report_of(model)
    if example_inputs is None and known is not None:
        return example_of(known["example"])
    if example_inputs is None and report is not None and isinstance(model, fx.GraphModule):
        return example_of(report.plan.example)
    return settle_inputs(model, example_inputs)


def _chosen(passes: Collection[str] | None) -> list[str]:
    known = [step.name for step in pipeline("deployment")]
    if passes is None:
        return known
    if isinstance(passes, str) or any(not isinstance(name, str) for name in passes):
        raise InputError(f"passes must be a list of names, not {passes!r}: there are {', '.join(known)}")
    for name in passes:
        if name not in known:
            other = "is not for deployment" if name in names() else "is not known"
            raise InputError(f"the pass {name!r} {other}: there are {', '.join(known)}")
    return [name for name in known if name == _FIRST or name in passes]


def _rewritten(module: fx.GraphModule, wanted: Sequence[str], args: Any, named: Any) -> dict[str, dict[str, int]]:
    """Run the passes on a module in evaluation, in place; what each counted."""
    said: dict[str, dict[str, int]] = {}
    for step in pipeline("deployment"):
        if step.name not in wanted:
            continue
        try:
            step.requires(module, None)  # type: ignore[arg-type]
            result = step.run(module, None)  # type: ignore[arg-type]
            step.ensures(module, None)  # type: ignore[arg-type]
            lint(module)
        except (PruneError, RuntimeError) as error:
            raise PruneError(f"pass {step.name}: {error}") from error
        said[step.name] = {name: count for name, count in result.counters.items() if count}
        if step.name == _FIRST:
            device, dtype = place_of(module)
            given = random_like((args, named), device, dtype)
            _Shapes(module, given[1]).run(*given[0])
    module.recompile()
    return said


class _Shapes(fx.Interpreter):
    """Notes the shape of every node's value, with some inputs by name."""

    def __init__(self, module: fx.GraphModule, named: Mapping[str, Any]) -> None:
        super().__init__(module)
        self._named = named

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._named[target] if target in self._named else super().placeholder(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        with torch.no_grad(), entered(n, gradients=False):
            value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta["shape"] = tuple(value.shape)
        return value


def _prove(source: fx.GraphModule, wanted: Sequence[str], args: Any, named: Any) -> None:
    """Compare the rewrite with what it was made from, on random weights and inputs, in float64, where nothing is rounded.

    Raises:
        NotEquivalent: they differ.
    """
    own: Any = randomize(twin_of(source, torch.float64, clone=True)).eval()
    made = deep_copy(own).eval()
    _rewritten(made, wanted, args, named)
    error = _error(own, made, args, named)
    if not error <= _EXACT:
        raise NotEquivalent(f"the optimized graph does not compute what the model does: it is off by {error:.1e} in float64")


def _error(model: nn.Module, made: nn.Module, args: Any, named: Any) -> float:
    """The relative difference of two models in evaluation, in float64 on random inputs."""
    device = place_of(model)[0]
    given = random_like((args, named), device, torch.float64)
    outputs = []
    for one in (model, made):
        twin = twin_of(one, torch.float64).eval()
        seed_all(0)
        with torch.no_grad():
            outputs.append(twin(*own_copy(given[0]), **own_copy(given[1])))
    return relative_error(outputs[1], outputs[0])
