"""What a plan says of residual branches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fxprune.errors import InputError, PlanMismatch
from fxprune.planning.reading import count, entries, number, text, truth

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis
    from fxprune.planning.plan import Plan

__all__ = ["BranchPlan", "branches_of", "check_branches", "lost_groups", "read_branch"]


@dataclass
class BranchPlan:
    """One residual branch.

    Attributes:
        id: the module in which its layers lie.
        kept: it stays.
        reason: why it may not go; empty if it may.
        macs, params: what goes with it alone, of the model as it is; MACs for one sample.
        tensors: parameters and buffers that go with it.
        score: its saliency, where it was ranked.
    """

    id: str
    kept: bool
    reason: str
    macs: int
    params: int
    tensors: list[str]
    score: float | None = None


def branches_of(analysis: Analysis, scores: Mapping[str, float]) -> list[BranchPlan]:
    """All branches of a model, of which some are gone.

    Args:
        analysis: of what is left.
    """
    return [
        BranchPlan(
            id=branch.id,
            kept=branch.id not in analysis.without_branches,
            reason=branch.reason,
            macs=round(branch.macs / analysis.batch),
            params=branch.params,
            tensors=list(branch.tensors),
            score=scores.get(branch.id),
        )
        for branch in analysis.branches.all.values()
    ]


def lost_groups(plan: Plan) -> set[str]:
    """The groups all of whose tensors go with branches."""
    lost = {name for branch in plan.branches if not branch.kept for name in branch.tensors}
    return {group.id for group in plan.groups if lost.issuperset(name for name, _, _ in group.members)} if lost else set()


def check_branches(branches: list[BranchPlan], analysis: Analysis) -> dict[str, list[int]]:
    """The branches that go, as `Analysis.cut` takes them.

    Raises:
        PlanMismatch: the model has no such branches.
    """
    gone = {branch.id: [0] for branch in branches if not branch.kept}
    try:
        for name in gone:
            analysis.branch(name)
    except InputError as error:
        raise PlanMismatch(f"the plan removes what the model does not have: {error}") from error
    return gone


def read_branch(data: Mapping[str, Any]) -> BranchPlan:
    """
    Raises:
        ValueError, TypeError: this says nothing of a branch.
    """
    branch = BranchPlan(**data)
    text(branch.id), text(branch.reason), truth(branch.kept), count(branch.macs), count(branch.params)
    branch.tensors = entries(branch.tensors, text)
    branch.score = None if branch.score is None else number(branch.score)
    return branch
