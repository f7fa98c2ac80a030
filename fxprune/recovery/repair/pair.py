"""A model and what was pruned of it, side by side."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from fxprune.analysis.analysis import analyze_model
from fxprune.analysis.cut import Cut
from fxprune.errors import InputError, PlanMismatch
from fxprune.inputs.acceptance import check_model, check_values
from fxprune.inputs.examples import example_of
from fxprune.labels.store import axes_in
from fxprune.labels.table import key_of
from fxprune.passes.do_conv import check_folded
from fxprune.planning.plan import Plan, fingerprint
from fxprune.planning.report import check_graph, check_unchanged, report_of
from fxprune.recovery.repair.calls import input_among
from fxprune.state import clone_tensors, named_parts, named_tensors, place_of, set_modes, sliced
from fxprune.tracing.graphs.module import build

__all__ = ["Pair"]


class Pair:
    """The recorded original over copies of its tensors, and a copy of the slim model, both in evaluation mode.

    Attributes:
        cut: what went.
        dense, slim: the two.
        device: that both are on.
        plan: by which the slim model was made.
    """

    plan: Plan

    def __init__(self, cut: Cut, dense: fx.GraphModule, slim: fx.GraphModule, origin: Mapping[str, fx.Node]) -> None:
        self.cut, self.dense, self.slim = cut, dense, slim
        self.device = place_of(dense)[0]
        self._origin = origin
        self._modes = [(part, part.training) for _, part in named_parts(slim, once=True)]
        dense.eval(), slim.eval()
        self._tensors = named_tensors(dense)

    @classmethod
    def of(cls, slim: Any, model: nn.Module) -> Pair:
        """
        Raises:
            InputError: these are not a model and what `prune` or `apply` made of one like it.
        """
        plan = _plan_of(slim)
        check_folded(slim, "a repair fits plain weights")
        check_model(model)
        check_values(model, "repair where the weights are")
        if fingerprint(model) != plan.fingerprint:
            raise InputError("slim was not made from a model like this one: names or shapes of parameters differ")
        if place_of(model)[0] != place_of(slim)[0]:
            raise InputError(f"the model is on {place_of(model)[0]} and slim on {place_of(slim)[0]}: move one to the other")
        args, named = example_of(plan.example)
        analysis = analyze_model(model, args, named, attention=plan.settings.attention, ignore=plan.settings.ignore)
        if (why := analysis.traced.refused.get("evaluation")) is not None:
            raise InputError(f"a repair runs the model in evaluation, which could not be recorded: {why}")
        try:
            cut = analysis.cut(plan.cuts(analysis))
        except PlanMismatch as error:
            raise InputError(f"slim was not made from a model like this one: {error}") from error
        constants = {name: value.to(place_of(model)[0]) for name, value in analysis.traced.constants.items()}
        dense, origin = build(analysis.traced, model, constants)
        clone_tensors(dense)  # what a forward writes into its buffers stays here
        made = cls(cut, dense, copy.deepcopy(slim), {new.name: old for new, old in origin.items()})
        made.plan = plan
        return made

    def names(self, dense: Mapping[str, fx.Node], slim: Mapping[str, fx.Node]) -> set[str]:
        """Nodes that both graphs have, as the same operation."""
        return {n for n, node in slim.items() if n in dense and (dense[n].op, dense[n].target) == (node.op, node.target)}

    def loses_inputs(self, name: str, at: int = 0) -> bool:
        """Whether channels went of what the node `name` is called with, at the place `at` of its arguments."""
        node = self._origin[name]
        source = node.args[at] if len(node.args) > at else input_among(node.kwargs)
        if not isinstance(source, fx.Node):
            return False
        return any(self.cut.kept(axis) is not None for axis in axes_in(self.cut.analysis.traced.axes[source]))

    def sums_over_less(self, name: str) -> bool:
        """Whether the node `name` is a product, or several, that sums over channels some of which went."""
        analysis, node = self.cut.analysis, self._origin[name]
        root = analysis.solution.root
        if (
            key_of(node.op, node.target) == "aten::scaled_dot_product_attention"
        ):  # of two products: what the first one sums over
            query = analysis.traced.axes[node.all_input_nodes[0]]
            return self.cut.kept(query[-1]) is not None
        out = [root[a.labels] for a in axes_in(analysis.traced.axes[node]) if a.labels is not None]
        for term in analysis.traced.mode.macs:
            for classes in (root[labels] for labels in term.axes if term.node == node.name):
                if self.cut.mask[classes].any() and not any(np.array_equal(classes, other) for other in out):
                    return True
        return False

    def kept_of(self, name: str, value: Tensor) -> Tensor | None:
        """What is kept of a value of the node `name` of the original; None where that is not known at this size."""
        axes = self.cut.analysis.traced.axes[self._origin[name]]
        kept = {d: k for d, axis in enumerate(axes) if (k := self.cut.kept(axis)) is not None}
        if value.dim() != len(axes) or any(value.shape[d] != axes[d].size for d in kept):
            return None
        return sliced(value, kept) if kept else value

    def kept_tensor(self, name: str) -> Tensor:
        """What is kept of a tensor of the original."""
        return sliced(self._tensors[name], self.cut.tensors.get(name, {}))

    def result(self) -> fx.GraphModule:
        """The slim model in the modes that it came with."""
        set_modes(self._modes)
        return self.slim


def _plan_of(slim: Any) -> Plan:
    report = report_of(slim) if isinstance(slim, nn.Module) else None
    if report is None:
        raise InputError("slim must be what fxprune.prune or fxprune.apply returned")
    check_graph(slim, "a repair", "fine-tune it instead")
    if report.own_class is not None and not report.plan.options.get("submodules"):
        raise InputError("slim is in its own class: repair the graph that prune gives without form='module', then shrink that")
    if report.plan.options.get("submodules") or not isinstance(slim, fx.GraphModule):
        raise InputError("a repair needs the model as one graph, and slim is a model of which submodules were pruned")
    if any(t.is_meta for t in named_tensors(slim, once=True).values()):
        raise InputError("slim is on the meta device and has no values")
    check_unchanged(report, "repair the model that it was made from")
    return report.plan
