"""The steps themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import fx, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.cut import Cut
from fxprune.criteria import normalization_of, resolve, score_groups
from fxprune.errors import InputError, PruneError, said
from fxprune.iterating.carrier import Carrier
from fxprune.iterating.choosing import choose, policy_after
from fxprune.iterating.schedule import Schedule
from fxprune.iterating.scoring import effects_of_slim, ranked, scores_of_slim
from fxprune.iterating.store import Folder, State
from fxprune.iterating.weights import Slim
from fxprune.options import PruneOptions
from fxprune.planning.accounting import account_of
from fxprune.planning.document import document_of
from fxprune.planning.plan import Plan
from fxprune.planning.policies import chosen, policy_of
from fxprune.planning.policies.with_branches import chosen_with_branches, scores_of_branches
from fxprune.planning.repaired import Repaired, SiteRepair
from fxprune.planning.report import Clock, Report
from fxprune.planning.stepped import Step
from fxprune.planning.timed import Timed
from fxprune.profiling.using import timed
from fxprune.proofs.verify import check_rewrite
from fxprune.recovery.finetune import chance
from fxprune.recovery.repair.verb import repair
from fxprune.rewrite import Rewritten, rewrite, with_weights
from fxprune.state import named_tensors
from fxprune.statistics.branch_effects import branch_effects
from fxprune.submodules.target import Target

__all__ = ["Course", "Work"]

_BELOW, _SHOWN_BELOW = 1e-9, 1e-3  # what went lies so far below the rest: for a policy, and in a plan, of six digits


@dataclass(frozen=True)
class Work:
    """What the user brings.

    Attributes:
        model: the original.
        target: what is pruned of it.
        train: between steps.
        images: for repairs.
        observed: for criteria: data, loss, batches.
        verify: compare.
        note: of every report.
    """

    model: nn.Module
    target: Target
    train: Callable[[Any], Any] | None
    images: Any
    observed: dict[str, Any]
    verify: bool
    note: str = ""


class Course:
    """One iteration.

    Args:
        analysis: of the original.
        options: as they are asked for.
        schedule: and of each budget, the fraction that is kept in the end.
        folder: and where the iteration stands.
    """

    def __init__(
        self,
        work: Work,
        analysis: Analysis,
        options: PruneOptions,
        schedule: tuple[Schedule, dict[str, float]],
        folder: tuple[Folder, State],
    ) -> None:
        self.work, self.analysis, self.options = work, analysis, options
        (self._schedule, self._shares), (self.folder, self.state) = schedule, folder
        self._criterion = resolve(options.criterion, options.seed)
        self._carrier = Carrier(work.model, work.target)
        self._notes: list[str] = []

    def __call__(self) -> Iterator[fx.GraphModule]:
        """The slim model after each step that is left to do; of an iteration that is done, the last one again."""
        state, steps = self.state, self._schedule.steps
        self.folder.forget_repairs(state.step)
        if state.step and (state.stage != "released" or state.step == steps):
            yield from self._finished(self._restored())
        while state.step < steps:
            yield from self._finished(self._pruned(state.step + 1))

    # -- one step ------------------------------------------------------------------------------------------------------

    def _pruned(self, step: int) -> Slim:
        """Score, choose, cut, prove and repair."""
        state, clock, work = self.state, Clock(), self.work
        self._rescore(step)
        clock("score")
        options = self._options(step)
        if step == 1:
            end = partial(chosen_with_branches, effects=state.effects) if options.branches else chosen
            end(policy_of(self.options), self.analysis, state.scores)  # which says if it cannot be reached
        before, scores = state.gone(step - 1), ranked(state.scores, state.went, step, _BELOW)
        gone, rewritten = choose(self.analysis, policy_after(options, before), scores, before, state.held, state.effects)
        state.take(gone, step)
        clock("select and rewrite")
        plan = self._plan(rewritten.cut, step)
        slim = self._filled(rewritten, plan, clock, step)
        state.step, state.stage, state.reports = step, "pruned", {}
        if self.analysis.latency is not None:
            report = slim.module.meta["fxprune"]
            report.latency = timed(rewritten, self._carrier.traced, report.notes)
            state.reports |= {} if report.latency is None else {"latency": report.latency.to_dict()}
        if work.images is not None:
            module = repair(slim.module, work.model, work.images, checkpoint=self.folder.repair(step))
            slim = Slim(module, self._carrier.tensors)
            state.reports["repair"] = module.meta["fxprune"].repair.to_dict()
        state.history.append({"event": "pruned", "step": step, "macs": plan.macs[1], "params": plan.params[1]})
        self._keep(slim, "pruned" if work.train is not None else "trained")
        self.folder.forget_repairs(step)
        return slim

    def _finished(self, slim: Slim) -> Iterator[fx.GraphModule]:
        """Train, if that is left to do, and give the model to the user; what is done with it there counts, too."""
        state, report = self.state, slim.module.meta["fxprune"]
        if state.stage == "pruned":
            self._train(slim)
            state.history.append({"event": "trained", "step": state.step})
            self._keep(slim, "trained")
        report.step = replace(report.step, trained=self.work.train is not None)
        yield slim.module
        slim.take(None, f"the loop's body in step {state.step}")
        state.trained |= slim.differs(state.weights)
        self._keep(slim, "released")

    def _train(self, slim: Slim) -> None:
        assert self.work.train is not None
        step = self.state.step
        with chance.kept():
            chance.seed_everything(self.options.seed, "iterate", step)
            try:
                given = self.work.train(slim.module)
            except PruneError:
                raise
            except Exception as error:
                raise InputError(f"train failed in step {step}: {type(error).__name__}: {said(error)}") from error
        slim.take(given, f"train in step {step}")
        if (tuned := slim.module.meta["fxprune"].finetuning) is not None:
            self.state.reports["finetuning"] = tuned
        self.state.trained |= slim.differs(self.state.weights)

    def _keep(self, slim: Slim, stage: str) -> None:
        state = self.state
        state.stage, state.weights = stage, slim.weights()
        self.folder.keep(state, slim.module.meta["fxprune"].plan, last=state.step == self._schedule.steps)

    # -- what follows from the state -----------------------------------------------------------------------------------

    def _options(self, step: int) -> PruneOptions:
        return self._schedule.options(self.options, self._shares, step)

    def _rescore(self, step: int) -> None:
        """The scores of what is there, on the weights as they are; a channel that gets none keeps its last.

        Not where only a repair has changed them since the last time: weights that were fitted say less of what a channel is
        worth than those that were learnt.
        """
        state, options, observed = self.state, self.options, self.work.observed
        if step == 1:
            traced = self._carrier.traced
            state.scores = score_groups(self._criterion, traced, self.analysis, options.normalization, **observed)
            state.went = {name: np.zeros(len(s), np.int64) for name, s in state.scores.items()}
            if self._seen is not None:
                state.effects = branch_effects(traced, self.analysis, *self._seen)
            return
        rewritten = rewrite(self.analysis, state.gone(step - 1), options.passes)
        self._carrier.put_back(state.weights, rewritten.cut.tensors)
        if self.work.images is not None and not state.trained:
            return
        slim = with_weights(rewritten, self._carrier.traced)
        found = scores_of_slim(rewritten.cut, slim, self._criterion, options, **observed)
        there = {name: state.went[name] == 0 for name in found}
        lost = {name: int((np.isnan(s) & there[name]).sum()) for name, s in found.items()}
        stale = ", ".join(f"{count} of {name!r}" for name, count in lost.items() if count and there[name].sum() > 1)
        self._notes = [f"channels without a score of their own any more keep their last one: {stale}"] if stale else []
        state.scores |= {name: np.where(np.isnan(s), state.scores[name], s) for name, s in found.items()}
        if self._seen is not None:
            state.effects = {**(state.effects or {}), **effects_of_slim(rewritten.cut, slim, options, *self._seen)}
        state.trained = False

    @property
    def _seen(self) -> tuple[Any, int | None] | None:
        """On what the effects of branches are measured: data and how many batches; None where they are not."""
        seen = self.work.observed
        if not self.options.branches or seen["data"] is None or self.work.target.whole is not None:
            return None
        return seen["data"], seen["batches"]

    def _plan(self, cut: Cut, step: int) -> Plan:
        """The plan of all steps up to this one."""
        options, state = self._options(step), self.state
        scores, account = ranked(state.scores, state.went, step, _BELOW), None
        if options.budgets:
            known = {name: s for name, s in scores.items() if name not in state.held}
            account = account_of(cut, policy_after(options, state.gone(step - 1)), known)
        iteration = {"step": step, "steps": self._schedule.steps, "schedule": self._schedule.to_json()}
        stored = options.to_json() | {"normalization": normalization_of(self._criterion, options.normalization)}
        stored |= self.work.target.described()
        shown = ranked(state.scores, state.went, step, _SHOWN_BELOW)
        if options.branches:
            shown |= scores_of_branches(self.analysis, shown, state.effects)
        whole = {name: why for name, why in state.held.items() if name not in cut.gone}
        return document_of(self._carrier.traced, cut, {**stored, "iteration": iteration}, shown, whole, account)

    def _filled(self, rewritten: Rewritten, plan: Plan, clock: Clock, step: int) -> Slim:
        """The slim model with the weights as they are, proved, and its report."""
        graph, parts = self._carrier.filled(rewritten)
        report = rewritten.report(plan, clock.seconds)
        report.frozen_by_rewrite = {**self.state.held}
        report.notes += [*self._notes, *filter(None, [self.work.note])]
        original = None
        if self.work.verify:
            report.checks = check_rewrite(rewritten.cut, self._carrier.traced, graph)
            clock("verify")
            if step == self._schedule.steps:
                original = self._checked_on_original(step, graph)
                clock("verify on the original")
        report.step = Step(step, self._schedule.steps, self._schedule.to_json(), original=original)
        return Slim(self._carrier.handed_over(graph, parts, report, self.work.verify), self._carrier.tensors)

    def _checked_on_original(self, step: int, slim: fx.GraphModule) -> Any:
        """The final plan applied to the original as it came: proved there, and the same program as the slim model.

        Raises:
            PruneError: it is another one (a bug in fxprune: please report it).
        """
        again = rewrite(self.analysis, self.state.gone(step), self.options.passes)
        module = self.work.target.fill(again)[0]
        forms = [{n: tuple(t.shape) for n, t in named_tensors(m, once=True).items()} for m in (module, slim)]
        if module.code != slim.code or forms[0] != forms[1]:
            raise PruneError("the final plan gives another model on the original: this is a bug in fxprune, please report it")
        return check_rewrite(again.cut, self.work.target.model, module)

    def _restored(self) -> Slim:
        """The slim model of the stored state."""
        state, clock = self.state, Clock()
        rewritten = rewrite(self.analysis, state.gone(state.step), self.options.passes)
        self._carrier.put_back(state.weights, rewritten.cut.tensors)
        slim = self._filled(rewritten, self._plan(rewritten.cut, state.step), clock, state.step)
        report: Report = slim.module.meta["fxprune"]
        if (found := state.reports.get("repair")) is not None:
            sites = [SiteRepair(**site) for site in found["sites"]]
            report.repair = Repaired(**{**found, "sites": sites, "images": tuple(found["images"])})
        if (took := state.reports.get("latency")) is not None:
            report.latency = Timed.from_dict(took)
        report.finetuning = state.reports.get("finetuning")
        self.folder.show(state, report.plan, last=state.step == self._schedule.steps)
        return slim
