"""From an analysis and what goes to a plan: the document that says so of every group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from fxprune.analysis.cut import Cut
from fxprune.analysis.groups import Group
from fxprune.inputs.examples import describe
from fxprune.planning.plan import GroupPlan, Plan, fingerprint
from fxprune.planning.policies import Scores
from fxprune.state import ties

__all__ = ["document_of", "listed"]


def document_of(
    model: nn.Module,
    cut: Cut,
    options: dict[str, Any],
    scores: Scores | None = None,
    refused: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of a cut.

    Args:
        options: what the plan was made with.
        scores: of the groups that were ranked.
        refused: groups that the rewrite could not shrink -> the reason.
    """
    analysis = cut.analysis
    args, named = analysis.traced.inputs
    return Plan(
        model=type(model).__name__,
        fingerprint=fingerprint(model),
        options=options,
        groups=[_group_plan(group, cut, scores or {}, refused or {}) for group in analysis.groups],
        kept=listed(cut.tensors),
        macs=(analysis.macs(), cut.macs),
        params=(analysis.params(), cut.params),
        whole=analysis.whole,
        tied=ties(model),
        example=describe(args, named),
    )


def _group_plan(group: Group, cut: Cut, scores: Scores, refused: Mapping[str, str]) -> GroupPlan:
    free = group.status == "free"
    reason = refused.get(group.id) or _spared(group.id, cut) if free else group.reason
    lost = set(cut.gone[group.id].tolist()) if free and group.id in cut.gone else set()
    return GroupPlan(
        id=group.id,
        size=group.size,
        status="frozen" if free and reason else group.status,
        reason=reason,
        exact=group.exact,
        members=[(m.name, m.axis, m.role) for m in group.members],
        kept=[c for c in range(group.size) if c not in lost],
        scores=[float(f"{s:.6g}") for s in scores[group.id]] if free and group.id in scores else None,
    )


def _spared(name: str, cut: Cut) -> str:
    """Why a free group loses nothing although others do, if that is because of the groups that exclude it."""
    others = sorted(cut.analysis.exclusive.get(name, set()) & set(cut.gone))
    if name in cut.gone or not others:
        return ""
    return f"a grouped convolution loses whole groups or channels within them, and {others[0]!r} is cheaper in saliency"


def listed(kept: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, dict[int, list[int]]]:
    """Kept indices as plain lists."""
    return {name: {axis: ids.tolist() for axis, ids in axes.items()} for name, axes in kept.items()}
