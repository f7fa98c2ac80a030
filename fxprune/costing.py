"""What a model costs, layer by layer, by three counts side by side: ours in closed form, PyTorch's and thop's."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.cut import Cut
from fxprune.errors import InputError, said, shown
from fxprune.inputs.acceptance import check_model
from fxprune.planning.plan import Plan
from fxprune.planning.report import in_unit, plan_of
from fxprune.rewrite import rewrite
from fxprune.state import named_tensors
from fxprune.submodules.target import Target
from fxprune.tracing.graphs.modes import in_evaluation

__all__ = ["Costs", "LayerCosts", "costs"]

_OUTSIDE = "(functions)"  # what code computes outside of layers: products in attention
Counts = dict[str, float]  # layer -> operations


@dataclass(frozen=True)
class LayerCosts:
    """One layer; each pair is of the dense model and of the slim one (0 where there is none).

    Attributes:
        name: of the layer, or ``(functions)``: what is computed outside of layers.
        macs: multiply-accumulates for one sample, in closed form.
        flop_counter: by `torch.utils.flop_counter`, halved.
        thop: by thop, where it ran.
        params: of the layer itself.
        why: where the counts differ, why.
    """

    name: str
    macs: tuple[float, float] = (0, 0)
    flop_counter: tuple[float, float] = (0, 0)
    thop: tuple[float, float] | None = None
    params: tuple[int, int] = (0, 0)
    why: str = ""


@dataclass(frozen=True)
class Costs:
    """What `fxprune.costs` gives; print it for a table.

    Attributes:
        model: class name.
        slim: whether a slim model was counted, too.
        layers: in the order of the graph.
        total: their sum.
        notes: why a count is missing.
    """

    model: str
    slim: bool
    layers: list[LayerCosts]
    total: LayerCosts
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        names = ["layer", "MACs", "flop_counter", "thop", "parameters"]
        rows = [names, *(self._cells(layer) for layer in (*self.layers, self.total))]
        widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        whys = ["", *(layer.why for layer in self.layers), ""]
        return "\n".join([*(f"{line}  {why}".rstrip() for line, why in zip(lines, whys, strict=True)), *self.notes])

    def _cells(self, layer: LayerCosts) -> list[str]:
        pairs = (layer.macs, layer.flop_counter, layer.thop, layer.params)
        return [layer.name, *("-" if pair is None else self._pair(pair) for pair in pairs)]

    def _pair(self, pair: tuple[float, float]) -> str:
        counts, letter = in_unit([round(n) for n in (pair if self.slim else pair[:1])], 2)
        return " -> ".join(counts) + (f" {letter}" if letter else "")


def costs(model: nn.Module, slim: nn.Module | Plan | None = None, example_inputs: Any = None) -> Costs:
    """Count what every layer costs, of `model` and of what a plan leaves of it, by three counts.

    >>> print(costs(net, example_inputs=x).total.macs)
    (160, 0)

    Nothing is computed: all runs on the meta device, on the recorded graph, in evaluation. thop counts norms, activations and
    pooling, too; it is loaded here alone, and left out with a note where it is not installed.

    Args:
        slim: what `prune` or `apply` made of the model, or a plan for it.
        example_inputs: as in `fxprune.prune`; of a plan, those that it was made with.

    Raises:
        InputError: `slim` does not come from `prune` or `apply`.
        PlanMismatch: it was made from another model.
    """
    check_model(model)
    plan = plan_of(slim)
    if slim is not None and plan is None:
        raise InputError(f"slim must be what prune() or apply() gives, or a plan, not {shown(slim)}")
    if plan is None:
        target = Target.of(model, (), example_inputs)
        analysis = target.analyze()
        cuts: list[dict[str, list[int]]] = [{}]
    else:
        target = Target.of_plan(model, plan)
        analysis = target.analyze(plan.settings.attention, plan.settings.ignore)
        cuts = [{}, plan.cuts(analysis)]
    counted, notes = [], []
    for gone in cuts:
        rewritten = rewrite(analysis, gone)
        by_thop, note = _by_thop(rewritten.module, analysis)
        counted.append((_closed(rewritten.cut), _by_torch(rewritten.module, analysis), by_thop, _params(rewritten.module)))
        notes += [note] if note else []
    layers = [*_layers(analysis, counted)]
    return Costs(type(target.model).__name__, plan is not None, layers, _sum(layers), list(dict.fromkeys(notes)))


def _layers(analysis: Analysis, counted: list[tuple[Counts, Counts, Counts | None, Counts]]) -> Iterator[LayerCosts]:
    """Rows in the order of the graph, those without any count left out."""
    called = [str(node.target) for node in analysis.traced.graph.nodes if node.op == "call_module"]
    others = [name for one in counted for counts in one for name in counts or {} if name != _OUTSIDE]
    for name in dict.fromkeys([*called, *others, _OUTSIDE]):
        pairs: list[Any] = []
        for kind in range(4):
            values: list[Any] = [None if one[kind] is None else _plain((one[kind] or {}).get(name, 0)) for one in counted]
            pairs.append(None if values[0] is None else (values[0], values[1] if len(values) > 1 else 0))
        if any(pair is not None and any(pair) for pair in pairs):
            macs, by_torch, by_thop, params = pairs
            yield LayerCosts(name, macs, by_torch, by_thop, params, _why(name, macs, by_torch, by_thop))


def _plain(count: float) -> float:
    """Whole numbers as such: of one sample in a batch they mostly are."""
    return int(count) if count == int(count) else count


def _why(name: str, macs: tuple[float, float], by_torch: tuple[float, float], by_thop: tuple[float, float] | None) -> str:
    found = []
    if macs != by_torch:
        found.append("flop_counter has another formula for it")
    if by_thop is not None and by_thop != macs:
        if not any(macs):
            found.append("thop counts more than products")
        elif not any(by_thop):
            found.append("thop counts layers, not functions" if name == _OUTSIDE else "thop does not know this layer")
        else:
            found.append("thop has another formula for it")
    return "; ".join(found)


def _sum(layers: list[LayerCosts]) -> LayerCosts:
    totals: dict[str, Any] = {}
    for kind in ("macs", "flop_counter", "thop", "params"):
        pairs = [getattr(layer, kind) for layer in layers]
        totals[kind] = None if None in pairs else (sum(p[0] for p in pairs), sum(p[1] for p in pairs))
    return LayerCosts("total", **totals)


def _closed(cut: Cut) -> Counts:
    """Of each layer, for one sample, from the labels."""
    traced, batch = cut.analysis.traced, cut.analysis.batch
    layer = {n.name: str(n.target) if n.op == "call_module" else _OUTSIDE for n in traced.graph.nodes}
    run, kept, found = in_evaluation(traced.graph), ~cut.mask, defaultdict[str, float](float)
    for term in traced.mode.macs:
        if term.node in run:
            count = term.constant
            for labels in term.axes:
                count *= int(kept[cut.analysis.solution.root[labels]].sum())
            found[layer[term.node]] += count / batch
    return dict(found)


def _by_torch(module: fx.GraphModule, analysis: Analysis) -> Counts:
    from torch.utils.flop_counter import FlopCounterMode

    args, named = analysis.traced.inputs
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module.eval().requires_grad_(False)(*args, **named)
    root = type(module).__name__
    found = {k: sum(v.values()) / 2 / analysis.batch for k, v in counter.get_flop_counts().items()}
    layers = {name: found.get(f"{root}.{name}", 0.0) for name, _ in module.named_modules() if name}
    leaves = {name: n for name, n in layers.items() if n and not any(other.startswith(f"{name}.") for other in layers)}
    return {**leaves, _OUTSIDE: found.get("Global", 0.0) - sum(leaves.values())}


def _by_thop(module: fx.GraphModule, analysis: Analysis) -> tuple[Counts | None, str]:
    """Its counts, or why there are none."""
    args, named = analysis.traced.inputs
    if named or not all(isinstance(a, torch.Tensor) for a in args):
        return None, "thop was left out: it takes tensors by position alone"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from thop import profile

            total, _, tree = profile(module, inputs=tuple(args), verbose=False, ret_layer_info=True)
    except Exception as error:  # of another library, anything
        return None, f"thop was left out: {type(error).__name__}: {said(error)}"
    leaves = {name: ops / analysis.batch for name, ops in _leaves(tree, "")}
    return {**leaves, _OUTSIDE: float(total) / analysis.batch - sum(leaves.values())}, ""


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, (ops, _, inner) in tree.items():
        if inner:
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, float(ops)


def _params(module: nn.Module) -> Counts:
    found: dict[str, float] = defaultdict(float)
    modules = {name for name, _ in module.named_modules() if name}
    for name, tensor in named_tensors(module, once=True).items():
        if isinstance(tensor, nn.Parameter):
            owner = name.rpartition(".")[0]
            found[owner if owner in modules else _OUTSIDE] += tensor.numel()
    return dict(found)
