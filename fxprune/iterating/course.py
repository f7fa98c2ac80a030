"""The steps themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import fx, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.cut import Cut
from fxprune.criteria import normalization_of, resolve, score_groups
from fxprune.errors import InputError, PruneError, said
from fxprune.iterating.choosing import choose, policy_after
from fxprune.iterating.schedule import Schedule
from fxprune.iterating.scoring import ranked, scores_of_slim
from fxprune.iterating.store import Folder
from fxprune.iterating.weights import Slim, put_back
from fxprune.options import PruneOptions
from fxprune.planning.accounting import account_of
from fxprune.planning.document import document_of
from fxprune.planning.plan import Plan
from fxprune.planning.policies import chosen, policy_of
from fxprune.planning.repaired import Repaired, SiteRepair
from fxprune.planning.report import Clock, Report
from fxprune.planning.stepped import Step
from fxprune.proofs.verify import check_rewrite
from fxprune.recovery.finetune import chance
from fxprune.recovery.repair.verb import repair
from fxprune.rewrite import Rewritten, rewrite, with_weights
from fxprune.state import deep_copy, named_tensors

__all__ = ["Course", "Work"]

_BELOW, _SHOWN_BELOW = 1e-9, 1e-3  # what went lies so far below the rest: for a policy, and in a plan, of six digits


@dataclass(frozen=True)
class Work:
    """What the user brings.

    Attributes:
        model: the original.
        train: between steps.
        images: for repairs.
        observed: for criteria: data, loss, batches.
        verify: compare.
        note: of every report.
    """

    model: nn.Module
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
        shares: of each budget, the fraction that is kept in the end.
        described: what a plan stores of the iteration.
    """

    def __init__(
        self,
        work: Work,
        analysis: Analysis,
        options: PruneOptions,
        schedule: Schedule,
        shares: dict[str, float],
        folder: Folder,
    ) -> None:
        self.work, self.analysis, self.options, self.folder = work, analysis, options, folder
        self._schedule, self._shares = schedule, shares
        self._criterion = resolve(options.criterion, options.seed)
        self._carrier = deep_copy(work.model)  # the original's shapes, with the weights of the slim model as they are by then
        self._own = named_tensors(self._carrier, once=True)
        self.state = folder.read()
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
            chosen(policy_of(self.options), self.analysis, state.scores)  # which says if the end cannot be reached
        before = state.gone(step - 1)
        policy = policy_after(options, before)
        gone, rewritten = choose(self.analysis, policy, ranked(state.scores, state.went, step, _BELOW), before, state.held)
        for name, channels in gone.items():
            fresh = np.isin(np.arange(len(state.went[name])), channels) & (state.went[name] == 0)
            state.went[name][fresh] = step
        clock("select and rewrite")
        plan = self._plan(rewritten.cut, step)
        slim = self._filled(rewritten, plan, clock, step)
        state.step, state.stage, state.reports = step, "pruned", {}
        if work.images is not None:
            module = repair(slim.module, work.model, work.images, checkpoint=self.folder.repair(step))
            slim = Slim(module, self._own)
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
            state.scores = score_groups(self._criterion, self._carrier, self.analysis, options.normalization, **observed)
            state.went = {name: np.zeros(len(s), np.int64) for name, s in state.scores.items()}
            return
        rewritten = rewrite(self.analysis, state.gone(step - 1), options.passes)
        put_back(self._carrier, state.weights, rewritten.cut.tensors)
        if self.work.images is not None and not state.trained:
            return
        slim = with_weights(rewritten, self._carrier)
        found = scores_of_slim(rewritten.cut, slim, self._criterion, options, **observed)
        there = {name: state.went[name] == 0 for name in found}
        lost = {name: int((np.isnan(s) & there[name]).sum()) for name, s in found.items()}
        stale = ", ".join(f"{count} of {name!r}" for name, count in lost.items() if count and there[name].sum() > 1)
        self._notes = [f"channels without a score of their own any more keep their last one: {stale}"] if stale else []
        state.scores = {name: np.where(np.isnan(found[name]), s, found[name]) for name, s in state.scores.items()}
        state.trained = False

    def _plan(self, cut: Cut, step: int) -> Plan:
        """The plan of all steps up to this one."""
        options, state = self._options(step), self.state
        scores, account = ranked(state.scores, state.went, step, _BELOW), None
        if options.budgets:
            known = {name: s for name, s in scores.items() if name not in state.held}
            account = account_of(cut, policy_after(options, state.gone(step - 1)), known)
        iteration = {"step": step, "steps": self._schedule.steps, "schedule": self._schedule.to_json()}
        stored = options.to_json() | {"normalization": normalization_of(self._criterion, options.normalization)}
        shown = ranked(state.scores, state.went, step, _SHOWN_BELOW)
        whole = {name: why for name, why in state.held.items() if name not in cut.gone}
        return document_of(self._carrier, cut, {**stored, "iteration": iteration}, shown, whole, account)

    def _filled(self, rewritten: Rewritten, plan: Plan, clock: Clock, step: int) -> Slim:
        """The slim model with the weights as they are, proved, and its report."""
        module = with_weights(rewritten, self._carrier)
        report = rewritten.report(plan, clock.seconds)
        report.frozen_by_rewrite = {**self.state.held}
        report.notes += [*self._notes, *filter(None, [self.work.note])]
        original = None
        if self.work.verify:
            report.checks = check_rewrite(rewritten.cut, self._carrier, module)
            clock("verify")
            if step == self._schedule.steps:
                original = self._checked_on_original(rewritten.cut, module)
                clock("verify on the original")
        report.step = Step(step, self._schedule.steps, self._schedule.to_json(), original=original)
        module.meta["fxprune"] = report
        return Slim(module, self._own)

    def _checked_on_original(self, cut: Cut, slim: fx.GraphModule) -> Any:
        """The final plan applied to the original as it came: proved there, and the same program as the slim model.

        Raises:
            PruneError: it is another one (a bug in fxprune: please report it).
        """
        again = rewrite(self.analysis, cut.gone, self.options.passes)
        module = with_weights(again, self.work.model)
        forms = [{n: tuple(t.shape) for n, t in named_tensors(m, once=True).items()} for m in (module, slim)]
        if module.code != slim.code or forms[0] != forms[1]:
            raise PruneError("the final plan gives another model on the original: this is a bug in fxprune, please report it")
        return check_rewrite(again.cut, self.work.model, module)

    def _restored(self) -> Slim:
        """The slim model of the stored state."""
        state, clock = self.state, Clock()
        rewritten = rewrite(self.analysis, state.gone(state.step), self.options.passes)
        put_back(self._carrier, state.weights, rewritten.cut.tensors)
        slim = self._filled(rewritten, self._plan(rewritten.cut, state.step), clock, state.step)
        report: Report = slim.module.meta["fxprune"]
        if (found := state.reports.get("repair")) is not None:
            sites = [SiteRepair(**site) for site in found["sites"]]
            report.repair = Repaired(**{**found, "sites": sites, "images": tuple(found["images"])})
        report.finetuning = state.reports.get("finetuning")
        self.folder.show(state, report.plan, last=state.step == self._schedule.steps)
        return slim
