"""What is traced and pruned: the user's model, or the named submodules of it as one module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxprune.analysis.analysis import Analysis, analyze_model
from fxprune.errors import InputError, PlanMismatch
from fxprune.inputs.acceptance import check_model
from fxprune.inputs.examples import describe, example_of, settle_inputs
from fxprune.options import AttentionPolicy, check_attention, check_names
from fxprune.planning.plan import Plan, fingerprint
from fxprune.planning.report import Report, report_of
from fxprune.rewrite import Rewritten, with_weights
from fxprune.state import clone_tensors
from fxprune.submodules.dressing import Part
from fxprune.submodules.hints import naming_submodules
from fxprune.submodules.parts import Submodules
from fxprune.tracing.graphs.module import build
from fxprune.tracing.graphs.one_mode import in_its_mode
from fxprune.tracing.tracer import trace_graph
from fxprune.tracing.words.noted import note_words

__all__ = ["Target", "analyze", "pair_of", "trace"]


@dataclass(frozen=True, eq=False)
class Target:
    """One module for the rest of the pipeline.

    Attributes:
        model: the user's model, or its submodules as one.
        whole: the submodules in their model, if it is these that are pruned.
        args, named: example inputs of `model`.
        hints: where it cannot be recorded, the error names the submodules that can, which takes some time.
    """

    model: nn.Module
    whole: Submodules | None
    args: tuple[Any, ...]
    named: dict[str, Any]
    hints: bool = True

    @classmethod
    def of(cls, model: nn.Module, submodules: str | Iterable[str], example_inputs: Any, hints: bool = True) -> Target:
        """What a user names.

        Raises:
            InputError: a name matches nothing, or the inputs are missing.
        """
        check_model(model)
        names = check_names(submodules, "submodules")
        if not names:
            return cls(model, None, *settle_inputs(model, example_inputs), hints=hints)
        whole = Submodules.of(model, names, example_inputs)
        return cls(whole.parts, whole, whole.inputs, {})

    @classmethod
    def of_plan(cls, model: nn.Module, plan: Plan) -> Target:
        """What a plan was made for.

        Raises:
            PlanMismatch: that is another model.
            InputError: no graph can hold it.
        """
        check_model(model)
        if plan.options.get("watched"):
            raise InputError(
                "this needs the model as one graph, and the plan was made for one that no graph can hold: apply and shrink "
                "take it (form='module'), and so do store, restore and verify"
            )
        whole = Submodules.of_plan(model, plan)
        args, named = example_of(plan.example)
        target = cls(model if whole is None else whole.parts, whole, args, named)
        if whole is not None and describe(whole.inputs, {}) != plan.example:
            raise PlanMismatch("the plan contradicts itself: its submodules and its example inputs differ")
        if fingerprint(target.model) != plan.fingerprint:
            raise PlanMismatch(
                f"the plan was made for a {plan.model} with other parameters than this {type(model).__name__}: "
                "names or shapes differ"
            )
        return target

    def analyze(self, attention: AttentionPolicy = "head_dim", ignore: Iterable[str] = ()) -> Analysis:
        """Trace, label and group; an error names the submodules that could be pruned instead."""
        ignore = check_names(ignore, "ignore")
        with naming_submodules(self.model, self.args, self.named) if self.hints else nullcontext():
            return analyze_model(self.model, self.args, self.named, attention=check_attention(attention), ignore=ignore)

    def record(self) -> fx.GraphModule:
        """The model as a GraphModule over copies of its tensors."""
        with naming_submodules(self.model, self.args, self.named):
            traced = trace_graph(self.model, self.args, self.named)
        module, origin = build(traced, self.model, traced.constants)
        clone_tensors(module)
        note_words(module, origin, self.model)
        module.recompile()
        return in_its_mode(module)

    def check_criterion(self, criterion: Any) -> None:
        """
        Raises:
            InputError: the criterion runs the model, which is not one graph.
        """
        if self.whole is not None and getattr(criterion, "needs_data", False):
            raise InputError(
                "a criterion that observes the model at work needs it as one graph: with submodules=[...] use one that reads "
                "weights alone"
            )

    def fill(self, rewritten: Rewritten) -> tuple[fx.GraphModule, dict[str, Part]]:
        """The slim graph with weights; of submodules, put together from the parts that will be handed over."""
        slim = with_weights(rewritten, self.model)
        if self.whole is None:
            return slim, {}
        parts = self.whole.split(slim)
        return self.whole.join(parts), parts

    def hand_over(self, slim: fx.GraphModule, parts: Mapping[str, Part], report: Report, check: bool) -> nn.Module:
        """What the user gets: the slim graph, or a copy of the model with the parts in it; both carry the report.

        Raises:
            NotEquivalent: `check`, and the copy does not run although the model does.
        """
        if self.whole is not None:
            return self.whole.put_back(parts, report, check=check)
        slim.meta["fxprune"] = report
        return slim

    def described(self) -> dict[str, Any]:
        """What a plan's options store of it."""
        return {} if self.whole is None else {"submodules": self.whole.described()}


def analyze(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    ignore: Iterable[str] = (),
    attention: AttentionPolicy = "head_dim",
    submodules: str | Iterable[str] = (),
) -> Analysis:
    """Find the coupled channels of `model`, or of its `submodules`: ``.groups``; ``.graph`` for networkx.

    >>> [(group.id, group.size) for group in analyze(net, x).free]
    [('0.weight', 16)]
    """
    return Target.of(model, submodules, example_inputs).analyze(attention, ignore)


def trace(model: nn.Module, example_inputs: Any = None) -> fx.GraphModule:
    """Record `model` as a GraphModule of torch.nn leaves over copies of its tensors, with free sizes and both modes.

    >>> torch.equal(trace(net, x)(torch.ones(3, 8)), net(torch.ones(3, 8)))
    True
    """
    return Target.of(model, (), example_inputs).record()


def pair_of(model: nn.Module, slim: nn.Module, example_inputs: Any) -> tuple[nn.Module, nn.Module, Any]:
    """Original, slim model and inputs as one graph has them: themselves, or the submodules that were pruned, joined."""
    report = report_of(slim)
    whole = None if report is None else Submodules.of_plan(model, report.plan)
    if whole is None:
        return model, slim, example_inputs
    if example_inputs is not None:
        whole = Submodules.of(model, whole.names, example_inputs)
    return whole.parts, whole.joined_from(slim), whole.inputs
