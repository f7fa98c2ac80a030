"""Why a plan removes nothing, where a ratio was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fxprune.options import PruneOptions
from fxprune.planning.plan import Plan

__all__ = ["why_nothing"]


def why_nothing(plan: Plan) -> str:
    """In a sentence, what bound; empty where channels go, or where budgets were met without."""
    if plan.account is not None or _removes(plan):
        return ""
    sizes = [group.size for group in plan.groups if group.status == "free"]
    if not sizes:
        return "nothing was removed: every group is frozen or protected (fxprune.why says by what)"
    return f"nothing was removed: {_bound(plan.settings, sizes)}"


def _removes(plan: Plan) -> bool:
    return any(len(group.kept) < group.size for group in plan.groups) or any(not branch.kept for branch in plan.branches)


def _bound(options: PruneOptions, sizes: list[int]) -> str:
    ratio, largest = options.ratio, max(sizes)  # of each group alone, any ratio above 0 takes a channel
    if not isinstance(options.max_ratio, Mapping) and all(
        size - max(1, math.ceil(size * (1 - options.max_ratio) - 1e-9)) <= 0 for size in sizes
    ):
        return f"max_ratio={options.max_ratio:g} is less than one channel of any group (the largest has {largest})"
    if isinstance(ratio, Mapping):
        if not any(ratio.values()):
            return "all ratios by name are 0"
    elif ratio is not None and options.scope == "global" and not round(sum(sizes) * ratio):
        return f"ratio={ratio:g} is less than half of one channel of all {sum(sizes)} that may go"
    if options.round_to != 1:
        return (
            f"with round_to={options.round_to}, the multiple nearest to what a group would keep is all of it (the largest has "
            f"{largest} channels)"
        )
    return f"the policy {options.scope!r} chose no channel"
