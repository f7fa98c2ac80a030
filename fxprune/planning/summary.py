"""A plan in a few lines, and what two plans of one model do otherwise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fxprune.errors import PlanMismatch
from fxprune.planning.report import counted

if TYPE_CHECKING:
    from fxprune.planning.plan import GroupPlan, Plan

__all__ = ["Difference", "GroupDifference", "difference", "summary"]

_NAMED = 12  # groups of a difference that its text lists


def summary(plan: Plan, rows: int = 40) -> str:
    """What `Plan.summary` gives."""
    pruned = [group for group in plan.groups if len(group.kept) < group.size]
    asked = ("ratio", "macs", "params", "memory", "scope", "criterion", "normalization", "max_ratio", "round_to", "attention")
    options = ", ".join(f"{name}={plan.options[name]}" for name in asked if plan.options.get(name) is not None)
    lines = [f"{plan.model}: {_change(plan.macs, 1, 'MACs')}, {_change(plan.params, 2, ' parameters')}"]
    lines += [f"by {options}"] if options else []
    lines += [] if plan.account is None else [str(plan.account), *plan.account.notes]
    width = max([len(group.id) for group in pruned[:rows]], default=0)
    for group in pruned[:rows]:
        kind = "" if group.exact else "  statistics change"
        lines.append(f"  {group.id:{width}}  {group.size:5} -> {len(group.kept):5}  {len(group.kept) / group.size:4.0%}{kind}")
    lines += [f"  ... and {len(pruned) - rows} more"] if len(pruned) > rows else []
    whole = Counter(_why_whole(group) for group in plan.groups if len(group.kept) == group.size)
    return "\n".join([*lines, *(f"  {count} whole: {reason}" for reason, count in whole.most_common(rows))])


def _change(counts: tuple[int, int], digits: int, what: str) -> str:
    return f"{counted(counts, digits, what)} ({counts[1] / max(counts[0], 1):.1%} kept)"


def _why_whole(group: GroupPlan) -> str:
    if group.reason:
        return f"{group.status}, {group.reason}"
    return "free, nothing of it goes" if group.status == "free" else group.status


@dataclass(frozen=True)
class GroupDifference:
    """Of one group: how many channels each plan keeps, and those that only one of them does."""

    id: str
    size: int
    kept: tuple[int, int]
    only: tuple[list[int], list[int]]


@dataclass(frozen=True)
class Difference:
    """What a plan does (first) and another one of the same model (second).

    Attributes:
        macs, params: what each leaves.
        groups: those of which they keep different channels.
        options: names of options that differ -> both values; None where one has none.
    """

    macs: tuple[int, int]
    params: tuple[int, int]
    groups: list[GroupDifference] = field(default_factory=list)
    options: dict[str, tuple[object, object]] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.groups:
            return "both plans keep the same channels"
        lines = [f"{counted(self.macs, 1, 'MACs')}, {counted(self.params, 2, ' parameters')}"]
        lines += [f"  {name}: {one!r} -> {other!r}" for name, (one, other) in self.options.items()]
        width = max(len(group.id) for group in self.groups[:_NAMED])
        for group in self.groups[:_NAMED]:
            kept, (first, second) = " -> ".join(map(str, group.kept)), group.only
            lines.append(f"  {group.id:{width}}  keeps {kept} of {group.size}: {len(first)} go, {len(second)} come back")
        more = len(self.groups) - _NAMED
        return "\n".join(lines + ([f"  ... and {more} more groups"] if more > 0 else []))


def difference(plan: Plan, other: Plan) -> Difference:
    """What `Plan.diff` gives.

    Raises:
        PlanMismatch: the plans are for different models.
    """
    sizes = [{group.id: group.size for group in each.groups} for each in (plan, other)]
    if plan.fingerprint != other.fingerprint or sizes[0] != sizes[1]:
        raise PlanMismatch(
            "the plans are for different models, or were made with another attention: they have no groups in common"
        )
    found = []
    for group in plan.groups:
        mine, theirs = set(group.kept), set(other.group(group.id).kept)
        if mine != theirs:
            only = (sorted(mine - theirs), sorted(theirs - mine))
            found.append(GroupDifference(group.id, group.size, (len(mine), len(theirs)), only))
    names = sorted({*plan.options, *other.options})
    options = {name: (plan.options.get(name), other.options.get(name)) for name in names}
    changed = {name: pair for name, pair in options.items() if pair[0] != pair[1]}
    return Difference((plan.macs[1], other.macs[1]), (plan.params[1], other.params[1]), found, changed)
