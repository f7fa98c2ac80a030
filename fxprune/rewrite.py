"""From an analysis and the channels that go to a slim GraphModule."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.cut import Cut
from fxprune.errors import NothingToPrune, PruneError
from fxprune.passes.base import Context, Mismatch, run_passes
from fxprune.passes.registry import pipeline
from fxprune.planning.nothing import why_nothing
from fxprune.planning.plan import Plan
from fxprune.planning.report import Report
from fxprune.planning.trials import Trials
from fxprune.state import copied, named_parts, named_tensors, replace_tensors, set_modes, sliced
from fxprune.tracing.graphs.module import build
from fxprune.tracing.graphs.one_mode import in_its_mode
from fxprune.tracing.uncollected import uncollected
from fxprune.tracing.words.noted import note_words

__all__ = ["Rewritten", "on_meta", "rewrite", "with_weights"]


@dataclass(eq=False)
class Rewritten:
    """A slim model on the meta device, and how it came about.

    Attributes:
        module: the slim GraphModule, its tensors on the meta device.
        context: of the passes; ``context.cut`` is what went in the end.
        frozen: groups that could not be rewritten -> the reason.
        trials: of plans, of which this was the best.
    """

    module: fx.GraphModule
    context: Context
    frozen: dict[str, str]
    trials: Trials | None = None

    @property
    def cut(self) -> Cut:
        """What went in the end."""
        return self.context.cut

    def report(self, plan: Plan, seconds: dict[str, float]) -> Report:
        """What was done by a plan and is known before the result is checked; `seconds` may grow."""
        counters = {name: dict(count) for name, count in self.context.counters.items()}
        traced = self.cut.analysis.traced
        notes = [*traced.notes, *filter(None, [why_nothing(plan)]), *self.context.notes]
        notes += plan.account.notes if plan.account else ()
        report = Report(plan, counters, self.frozen, seconds=seconds, notes=notes, refused={**traced.refused})
        report.exact_norms, report.trials = {**self.cut.exact_norms}, self.trials
        report.memory = (self.cut.analysis.full.cut().memory, self.cut.memory)
        return report


@uncollected()
def rewrite(analysis: Analysis, gone: Mapping[str, np.ndarray | Sequence[int]], passes: Collection[str] = ()) -> Rewritten:
    """Rewrite the traced graph on the meta device; a group that fails the shape check is left whole, and said so.

    Args:
        gone: channels by group, and branches (`Analysis.cut`).
        passes: optional ones that are asked for, by name.

    Raises:
        NothingToPrune: every group that should lose channels turned out frozen.
        PruneError: the rewrite fails although no group explains it (a bug in fxprune: please report it).
    """
    gone, frozen = dict(gone), {}
    while True:
        constants = dict(analysis.traced.constants)
        module, origin = build(analysis.traced, analysis.traced.skeleton, on_meta(constants))
        context = Context(analysis.cut(gone), origin, constants)
        try:
            asked = (*passes, "drop-branches") if context.cut.analysis.without_branches else passes
            run_passes(module, pipeline("shapes", asked), context)
        except Mismatch as mismatch:
            failed = [name for name in mismatch.groups if name in gone]
            if not failed:
                raise PruneError(f"the rewrite failed although nothing that was removed explains it: {mismatch}") from mismatch
            for name in failed:
                frozen[name] = str(mismatch)
                del gone[name]
            continue
        if frozen and not gone:
            raise NothingToPrune(analysis.nothing(frozen))
        return Rewritten(module, context, frozen)


@uncollected()
def with_weights(rewritten: Rewritten, model: nn.Module) -> fx.GraphModule:
    """Fill the slim model with the kept weights of `model`; nothing is shared with it."""
    module, kept = rewritten.module, rewritten.cut.tensors
    source = named_tensors(model)
    constants = rewritten.context.constants
    device = next((t.device for t in source.values()), torch.device("cpu"))
    new: dict[int, Tensor] = {}
    with torch.no_grad():
        for name, tensor in named_tensors(module, once=True).items():
            if name in constants:
                new[id(tensor)] = constants[name].detach().to(device, copy=True)
            else:
                new[id(tensor)] = copied(source[name], sliced(source[name], kept.get(name, {})))
    replace_tensors(module, new)
    _match_modes(module, model)
    note_words(module, rewritten.context.origin, model)
    passes = pipeline("weights")
    return in_its_mode(run_passes(module, passes, rewritten.context) if passes else module)


def _match_modes(module: nn.Module, model: nn.Module) -> None:
    modes = {name: part.training for name, part in named_parts(model)}
    set_modes((part, modes.get(name, model.training)) for name, part in named_parts(module, once=True))


def on_meta(constants: Mapping[str, Any]) -> dict[str, Tensor]:
    """The shapes of a graph's constants."""
    return {name: torch.empty_like(value, device="meta") for name, value in constants.items()}
