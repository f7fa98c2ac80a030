"""What was done and what was measured."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fxprune.errors import InputError
from fxprune.planning.fidelity import Fidelity

if TYPE_CHECKING:
    from fxprune.planning.own_class import OwnClass
    from fxprune.planning.plan import Plan
    from fxprune.planning.repaired import Repaired
    from fxprune.planning.stepped import Step
    from fxprune.planning.timed import Timed
    from fxprune.planning.trials import Trials
    from fxprune.planning.validation import Validation

__all__ = ["Checks", "Clock", "Report", "check_graph", "check_unchanged", "counted", "in_unit", "plan_of", "report_of"]

_UNITS = ((1e5, 1e6, "M"), (1e3, 1e3, "k"))  # from which count, by what it is divided, its letter


class Clock:
    """Seconds of each step of a pipeline: call it with a step's name when that ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = round(now - self._last, 4)
        self._last = now


@dataclass
class Checks:
    """Results of `fxprune.verify`.

    Attributes:
        fidelity: whether the recording computes what the user's own model does, and where that was tried.
        permutation_error: largest relative change of the original's output when the channels of every group are
            permuted; None where not measured.
        masked_error: largest relative difference between the slim output and the masked original's.
        exact_groups, statistics_groups: pruned groups of each kind.
        statistics: nodes that take a statistic over channels that went.
        unreferenced: those of them whose operator has no reference (`fxprune.proofs.references`): the masked original ran the
            slim model's own, so that its settings there are not checked.
        macs, params: before and after; MACs for one sample.
        flop_counter: MACs of the original and of the slim model by `torch.utils.flop_counter`, for one sample.
        latency: median seconds of one forward, original and slim, where measured.
    """

    fidelity: Fidelity | None = None
    permutation_error: float | None = None
    masked_error: float | None = None
    exact_groups: int = 0
    statistics_groups: int = 0
    statistics: int = 0
    unreferenced: list[str] = field(default_factory=list)
    macs: tuple[int, int] = (0, 0)
    params: tuple[int, int] = (0, 0)
    flop_counter: tuple[int, int] | None = None
    latency: tuple[float, float] | None = None
    tolerance: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every error that was measured is within the tolerance."""
        errors = (self.permutation_error, self.masked_error)
        return (self.fidelity is None or self.fidelity.passed) and all(e is None or e <= self.tolerance for e in errors)

    def to_dict(self) -> dict[str, Any]:
        fidelity = None if self.fidelity is None else self.fidelity.to_dict()
        return {**asdict(self), "fidelity": fidelity, "passed": self.passed}


@dataclass
class Report:
    """What `prune` did: in ``slim.meta["fxprune"]``. Where submodules were pruned, `plan`, MACs and parameters are theirs.

    Attributes:
        plan: what went, what stayed, and why.
        counters: what each pass did.
        frozen_by_rewrite: groups that the rewrite could not shrink -> the reason.
        checks: the verification, if it ran.
        seconds: of each step.
        refused: a mode (evaluation or training) that could not be recorded -> why; the slim model runs in the other alone.
        notes: what to know, in sentences: a batch that is fixed, and why; what bound where nothing was removed.
        exact_norms: nodes of norms that count the channels that went as zeros (``exact_norms=True``) -> the layers.
        repair: what `fxprune.repair` did, if it was called.
        own_class: what a model in its own classes is made of, if it is one (`fxprune.shrink`).
        latency: what the table predicted, and what the slim model takes, where the plan was made with one.
        finetuning: what `fxprune.finetune` did with the slim model: options, epochs with their losses, and more.
        trials: plans within the budgets that were tried out, where a repair's images chose among several.
        step: which step of `fxprune.iterate` this is, if it is one.
        memory: bytes of the activations of one sample at the fullest moment, before and after (`fxprune.analysis.memory`).
        optimized: what each pass of `fxprune.optimize` did, if this is a copy for evaluation; its tensors are no longer those
            of the plan, whose MACs and parameters are those before it.
    """

    plan: Plan
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    frozen_by_rewrite: dict[str, str] = field(default_factory=dict)
    checks: Checks | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    exact_norms: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    repair: Repaired | None = None
    finetuning: dict[str, Any] | None = None
    latency: Timed | None = None
    validation: Validation | None = None
    step: Step | None = None
    own_class: OwnClass | None = None
    memory: tuple[int, int] | None = None
    optimized: dict[str, dict[str, int]] | None = None
    trials: Trials | None = None

    @property
    def modes(self) -> dict[str, str]:
        """Of each mode, ``"recorded"`` or why it could not be."""
        return {mode: self.refused.get(mode, "recorded") for mode in ("evaluation", "training")}

    @property
    def model(self) -> str:
        return self.plan.model

    @property
    def macs_before(self) -> int:
        return self.plan.macs[0]

    @property
    def macs_after(self) -> int:
        return self.plan.macs[1]

    @property
    def params_before(self) -> int:
        return self.plan.params[0]

    @property
    def params_after(self) -> int:
        return self.plan.params[1]

    def to_dict(self) -> dict[str, Any]:
        """Without the lists of channels: those are in `plan`."""
        return {
            "model": self.model,
            "macs": list(self.plan.macs),
            "params": list(self.plan.params),
            "memory": None if self.memory is None else list(self.memory),
            "options": self.plan.options,
            "groups": [
                {"id": g.id, "status": g.status, "size": g.size, "kept": len(g.kept), "exact": g.exact, "reason": g.reason}
                for g in self.plan.groups
            ],
            "branches_removed": [branch.id for branch in self.plan.branches if not branch.kept],
            "counters": self.counters,
            "frozen_by_rewrite": self.frozen_by_rewrite,
            "checks": None if self.checks is None else self.checks.to_dict(),
            "seconds": self.seconds,
            "modes": self.modes,
            "notes": self.notes,
            "exact_norms": sorted(set(self.exact_norms.values())),
            "account": None if self.plan.account is None else self.plan.account.to_dict(),
            "repair": None if self.repair is None else self.repair.to_dict(),
            "own_class": None if self.own_class is None else self.own_class.to_dict(),
            "finetuning": self.finetuning,
            "latency": None if self.latency is None else self.latency.to_dict(),
            "validation": None if self.validation is None else self.validation.to_dict(),
            "trials": None if self.trials is None else self.trials.to_dict(),
            "step": None if self.step is None else self.step.to_dict(),
            "optimized": self.optimized,
        }

    def __str__(self) -> str:
        pruned = sum(len(g.kept) < g.size for g in self.plan.groups)
        branches = sum(not branch.kept for branch in self.plan.branches)
        (m0, m1), (p0, p1) = self.plan.macs, self.plan.params
        return (
            f"{self.model}: {counted((m0, m1), 1, 'MACs')} ({1 - m1 / max(m0, 1):.1%} fewer), "
            f"{counted((p0, p1), 2, ' parameters')} ({1 - p1 / max(p0, 1):.1%} fewer), {pruned} groups pruned"
            + (f", {branches} branch{'es' if branches > 1 else ''} removed" if branches else "")
            + (f", {len(self.exact_norms)} norms kept exact" if self.exact_norms else "")
            + ("" if self.plan.account is None else f"\n{self.plan.account}")
            + ("" if self.latency is None else f"\n{self.latency}")
            + ("" if self.repair is None else f"\n{self.repair}")
            + ("" if self.own_class is None else f"\n{self.own_class}")
            + "".join(f"\nNote: {note}" for note in self.notes)
        )


def report_of(slim: Any) -> Report | None:
    """The report of what `prune` or `apply` returned; None for anything else."""
    meta = getattr(slim, "meta", None)
    report = meta.get("fxprune") if isinstance(meta, dict) else None
    return report if isinstance(report, Report) else None


def check_unchanged(report: Report, verb: str) -> None:
    """
    Raises:
        InputError: the report is that of a copy for evaluation, which is not what its plan makes.
    """
    if report.optimized is not None:
        raise InputError(
            f"slim was optimized for evaluation, and is no longer what its plan makes: {verb}, then optimize again"
        )


def check_graph(slim: Any, verb: str, instead: str) -> None:
    """
    Args:
        verb: what needs the model as one graph.
        instead: what to do.

    Raises:
        InputError: it was pruned without one.
    """
    report = report_of(slim)
    if report is not None and report.plan.options.get("watched"):
        raise InputError(
            f"{verb} needs the model as one graph, and no graph can hold this one, which was pruned in its own class: {instead}"
        )


def in_unit(counts: Iterable[int], digits: int) -> tuple[list[str], str]:
    """Counts as text, all in the unit that shows the smallest of them: millions, thousands or ones; and its letter.

    >>> in_unit((4_089_184_256, 1_042_907_520), digits=1)
    (['4,089.2', '1,042.9'], 'M')
    >>> in_unit((4_800, 2_400), digits=1)
    (['4.8', '2.4'], 'k')
    >>> in_unit((48, 24), digits=1)
    (['48', '24'], '')
    """
    counts = list(counts)
    least = min((count for count in counts if count), default=0)
    for start, size, letter in _UNITS:
        if least >= start:
            return [f"{count / size:,.{digits}f}" for count in counts], letter
    return [f"{count:,}" for count in counts], ""


def counted(counts: Iterable[int], digits: int, what: str) -> str:
    """Counts of `what`, from first to last, in one unit (see `in_unit`).

    >>> counted((4_089_184_256, 1_042_907_520), 1, "MACs")
    '4,089.2 -> 1,042.9 MMACs'
    >>> counted([58], 2, " parameters")
    '58 parameters'
    """
    shown, letter = in_unit(counts, digits)
    return f"{' -> '.join(shown)} {(letter + what).strip()}"


def plan_of(model_or_plan: Any) -> Plan | None:
    """A plan itself, or that of what `prune` or `apply` returned; None for anything else."""
    from fxprune.planning.plan import Plan

    if isinstance(model_or_plan, Plan):
        return model_or_plan
    report = report_of(model_or_plan)
    return None if report is None else report.plan
