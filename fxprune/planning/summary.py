"""A plan in a few lines, and what two plans of one model do otherwise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fxprune.errors import PlanMismatch
from fxprune.planning.branch_plan import lost_groups
from fxprune.planning.report import counted

if TYPE_CHECKING:
    from fxprune.planning.plan import GroupPlan, Plan

__all__ = ["Difference", "GroupDifference", "branch_lines", "difference", "summary"]

_NAMED = 12  # groups of a difference that its text lists


def summary(plan: Plan, rows: int = 40) -> str:
    """What `Plan.summary` gives."""
    pruned = [group for group in plan.groups if len(group.kept) < group.size]
    asked = (
        "ratio",
        "macs",
        "params",
        "memory",
        "latency",
        "scope",
        "criterion",
        "normalization",
        "max_ratio",
        "round_to",
        "attention",
    )
    options = ", ".join(f"{name}={plan.options[name]}" for name in asked if plan.options.get(name) is not None)
    lines = [f"{plan.model}: {_change(plan.macs, 1, 'MACs')}, {_change(plan.params, 2, ' parameters')}"]
    lines += [f"by {options}"] if options else []
    lines += [] if plan.account is None else [str(plan.account), *plan.account.notes]
    width = max([len(group.id) for group in pruned[:rows]], default=0)
    for group in pruned[:rows]:
        kind = "" if group.exact else "  statistics change"
        lines.append(f"  {group.id:{width}}  {group.size:5} -> {len(group.kept):5}  {len(group.kept) / group.size:4.0%}{kind}")
    lines += [f"  ... and {len(pruned) - rows} more"] if len(pruned) > rows else []
    lines += branch_lines(plan, rows)
    lost = lost_groups(plan)
    whole = Counter(_why_whole(group) for group in plan.groups if len(group.kept) == group.size and group.id not in lost)
    return "\n".join([*lines, *(f"  {count} whole: {reason}" for reason, count in whole.most_common(rows))])


def branch_lines(plan: Plan, rows: int) -> list[str]:
    """The branches that go, and how many stay."""
    gone, stay = [b for b in plan.branches if not b.kept], [b for b in plan.branches if b.kept]
    lines = [
        f"  {b.id}  goes, with {counted([b.macs], 1, 'MACs')}, {counted([b.params], 2, ' parameters')}" for b in gone[:rows]
    ]
    lines += [f"  ... and {len(gone) - rows} more branches"] if len(gone) > rows else []
    why = Counter(b.reason or "may go, and are kept" for b in stay)
    return lines + [f"  {count} branches stay: {reason}" for reason, count in why.most_common(rows)]


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
        branches: branches that only one of the plans keeps -> whether that is the first.
    """

    macs: tuple[int, int]
    params: tuple[int, int]
    groups: list[GroupDifference] = field(default_factory=list)
    options: dict[str, tuple[object, object]] = field(default_factory=dict)
    branches: dict[str, bool] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.groups and not self.branches:
            return "both plans keep the same channels"
        lines = [f"{counted(self.macs, 1, 'MACs')}, {counted(self.params, 2, ' parameters')}"]
        lines += [f"  {name}: {one!r} -> {other!r}" for name, (one, other) in self.options.items()]
        lines += [f"  {name}  {'goes' if first else 'comes back'}" for name, first in self.branches.items()]
        width = max([len(group.id) for group in self.groups[:_NAMED]], default=0)
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
    found, gone = [], [lost_groups(each) for each in (plan, other)]
    for group in plan.groups:
        both = zip((group, other.group(group.id)), gone, strict=True)
        mine, theirs = (set() if each.id in lost else set(each.kept) for each, lost in both)
        if mine != theirs:
            only = (sorted(mine - theirs), sorted(theirs - mine))
            found.append(GroupDifference(group.id, group.size, (len(mine), len(theirs)), only))
    names = sorted({*plan.options, *other.options})
    options = {name: (plan.options.get(name), other.options.get(name)) for name in names}
    changed = {name: pair for name, pair in options.items() if pair[0] != pair[1]}
    lost = [{branch.id for branch in each.branches if not branch.kept} for each in (plan, other)]
    branches = {name: name in lost[1] for name in sorted(lost[0] ^ lost[1])}
    return Difference((plan.macs[1], other.macs[1]), (plan.params[1], other.params[1]), found, changed, branches)
