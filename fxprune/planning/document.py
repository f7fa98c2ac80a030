"""From an analysis and what goes to a plan: the document that says so of every group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from fxprune.analysis.cut import Cut
from fxprune.analysis.groups import Group
from fxprune.inputs.examples import describe
from fxprune.planning.account import Account
from fxprune.planning.branch_plan import branches_of
from fxprune.planning.plan import GroupPlan, Plan, fingerprint
from fxprune.planning.policies import Scores
from fxprune.state import ties

__all__ = ["document_of", "listed", "rounded"]

_POWERS = np.array([float(f"1e{k}") for k in range(23)])


def document_of(
    model: nn.Module,
    cut: Cut,
    options: dict[str, Any],
    scores: Scores | None = None,
    frozen: Mapping[str, str] | None = None,
    account: Account | None = None,
) -> Plan:
    """The plan of a cut.

    Args:
        options: what the plan was made with.
        scores: of the groups that were ranked.
        frozen: groups that the rewrite could not shrink -> the reason.
        account: of budgets.
    """
    analysis = cut.analysis
    whole, scores = analysis.full, scores or {}
    before, shown = whole.cut(), _shown(whole.free, scores)
    ranked = {name: float(rounded(found)[0]) for name, found in scores.items() if name not in shown}
    args, named = analysis.traced.example
    return Plan(
        model=type(model).__name__,
        fingerprint=fingerprint(model),
        options=options,
        groups=[_group_plan(group, cut, shown.get(group.id), frozen or {}) for group in analysis.groups],
        kept=listed(cut.tensors),
        macs=(before.macs, cut.macs),
        params=(before.params, cut.params),
        whole=whole.whole,
        tied=ties(model),
        example=describe(args, named),
        account=account,
        branches=branches_of(analysis, ranked) if options.get("branches") or analysis.without_branches else [],
    )


def _group_plan(group: Group, cut: Cut, scores: list[float] | None, frozen: Mapping[str, str]) -> GroupPlan:
    free = group.status == "free"
    reason = frozen.get(group.id) or _spared(group.id, cut) if free else group.reason
    gone_whole = free and group.id not in {g.id for g in cut.analysis.free}
    kept = np.arange(group.size)
    if free and group.id in cut.gone:
        kept = np.delete(kept, cut.gone[group.id])
    return GroupPlan(
        id=group.id,
        size=group.size,
        status="frozen" if free and reason else group.status,
        reason="all of it goes, with branches" if gone_whole else reason,
        exact=group.exact,
        members=[(m.name, m.axis, m.role) for m in group.members],
        kept=kept.tolist(),
        scores=scores,
    )


def _shown(groups: Sequence[Group], scores: Scores) -> dict[str, list[float]]:
    """The scores of groups as a plan shows them, all rounded in one go."""
    ranked = [group.id for group in groups if group.id in scores]
    if not ranked:
        return {}
    parts = [scores[name] for name in ranked]
    found = np.split(rounded(np.concatenate(parts)), np.cumsum([len(part) for part in parts])[:-1])
    return {name: part.tolist() for name, part in zip(ranked, found, strict=True)}


def rounded(scores: np.ndarray) -> np.ndarray:
    """Scores to six digits: ``float(f"{score:.6g}")`` of each, and the same bits.

    Whole numbers of up to six digits and powers of ten of up to 22 are exact in float64, so that their product or
    quotient is the float nearest to what the digits say. Formatted one by one are zeros, what lies outside of that range,
    and what lies so close to the middle between two neighbours that scaling might have moved it to the other side.

    >>> rounded(np.array([1234567.0, 2 / 3, 0.0])).tolist()
    [1234570.0, 0.666667, 0.0]
    """
    values = np.asarray(scores, np.float64)
    with np.errstate(all="ignore"):
        shift = 5 - np.floor(np.log10(np.abs(values)))  # what moves the sixth digit before the point
        power = _POWERS[np.clip(np.nan_to_num(np.abs(shift)), 0, 22).astype(int)]
        scaled = np.where(shift >= 0, values * power, values / power)
        digits = np.rint(scaled)
        result: np.ndarray = np.where(shift >= 0, digits / power, digits * power)
        certain = (np.abs(shift) <= 22) & (np.abs(scaled) >= 1e5) & (np.abs(scaled) < 1e6)
        certain &= np.abs(scaled - digits) < 0.5 - 1e-6
    for i in np.flatnonzero(~certain):
        result[i] = float(f"{values[i]:.6g}")
    return result


def _spared(name: str, cut: Cut) -> str:
    """Why a free group loses nothing although others do, if that is because of the groups that exclude it."""
    others = sorted(other for other in cut.analysis.exclusive.get(name, ()) if other in cut.gone)
    if name in cut.gone or not others:
        return ""
    return f"a grouped convolution loses whole groups or channels within them, and {others[0]!r} is cheaper in saliency"


def listed(kept: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, dict[int, list[int]]]:
    """Kept indices as plain lists."""
    return {name: {axis: ids.tolist() for axis, ids in axes.items()} for name, axes in kept.items()}
