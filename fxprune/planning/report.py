"""What was done and what was measured."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from fxprune.planning.plan import Plan

__all__ = ["Checks", "Clock", "Report", "report_of"]


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
        permutation_error: largest relative change of the original's output when the channels of every group are
            permuted; None where not measured.
        masked_error: largest relative difference between the slim output and the masked original's.
        exact_groups, statistics_groups: pruned groups of each kind.
        macs, params: before and after; MACs for one sample.
        flop_counter: MACs of the original and of the slim model by `torch.utils.flop_counter`, for one sample.
        latency: median seconds of one forward, original and slim, where measured.
    """

    permutation_error: float | None = None
    masked_error: float | None = None
    exact_groups: int = 0
    statistics_groups: int = 0
    macs: tuple[int, int] = (0, 0)
    params: tuple[int, int] = (0, 0)
    flop_counter: tuple[int, int] | None = None
    latency: tuple[float, float] | None = None
    tolerance: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every error that was measured is within the tolerance."""
        errors = (self.permutation_error, self.masked_error)
        return all(e is None or e <= self.tolerance for e in errors)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


@dataclass
class Report:
    """What `prune` did: in ``slim.meta["fxprune"]``. Where submodules were pruned, `plan`, MACs and parameters are theirs.

    Attributes:
        plan: what went, what stayed, and why.
        counters: what each pass did.
        frozen_by_rewrite: groups that the rewrite could not shrink -> the reason.
        checks: the verification, if it ran.
        seconds: of each step.
    """

    plan: Plan
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    frozen_by_rewrite: dict[str, str] = field(default_factory=dict)
    checks: Checks | None = None
    seconds: dict[str, float] = field(default_factory=dict)

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
            "options": self.plan.options,
            "groups": [
                {"id": g.id, "status": g.status, "size": g.size, "kept": len(g.kept), "exact": g.exact, "reason": g.reason}
                for g in self.plan.groups
            ],
            "counters": self.counters,
            "frozen_by_rewrite": self.frozen_by_rewrite,
            "checks": None if self.checks is None else self.checks.to_dict(),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        (m0, m1), (p0, p1) = self.plan.macs, self.plan.params
        pruned = sum(len(g.kept) < g.size for g in self.plan.groups)
        return (
            f"{self.model}: {m0 / 1e6:,.1f} -> {m1 / 1e6:,.1f} MMACs ({1 - m1 / max(m0, 1):.1%} fewer), "
            f"{p0 / 1e6:,.2f} -> {p1 / 1e6:,.2f} M parameters ({1 - p1 / max(p0, 1):.1%} fewer), {pruned} groups pruned"
        )


def report_of(slim: Any) -> Report | None:
    """The report of what `prune` or `apply` returned; None for anything else."""
    meta = getattr(slim, "meta", None)
    report = meta.get("fxprune") if isinstance(meta, dict) else None
    return report if isinstance(report, Report) else None
