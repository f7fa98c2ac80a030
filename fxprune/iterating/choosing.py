"""What goes in a step: chosen on the original, with what went before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.errors import PruneError
from fxprune.options import PruneOptions
from fxprune.planning.policies import Policy, Scores, chosen, policy_of
from fxprune.planning.policies.with_branches import Effects, chosen_with_branches
from fxprune.rewrite import Rewritten, rewrite

__all__ = ["Gone", "choose", "policy_after"]

Gone = dict[str, np.ndarray]  # group id -> sorted channel numbers; branch -> its only one


def policy_after(options: PruneOptions, before: Mapping[str, np.ndarray]) -> Policy:
    """The policy of the options, for which no group may keep more than is left of it.

    Args:
        before: channels that went.
    """
    policy: Any = policy_of(options)
    kind: Any = type(policy)

    class After(kind):
        def levels(self, group: Group) -> np.ndarray:
            left = group.size - len(before.get(group.id, ()))
            found = super().levels(group)
            return np.array([*found[found < left].tolist(), left])

    After.__name__ = kind.__name__  # as messages name it
    made: Policy = After(policy.options)
    return made


def choose(
    analysis: Analysis, policy: Policy, scores: Scores, before: Mapping[str, np.ndarray], held: dict[str, str], effects: Effects
) -> tuple[Gone, Rewritten]:
    """What is gone after a step: what went before, and what the policy takes now. Nothing comes back.

    Args:
        scores: of all free groups, in which channels that went are the lowest.
        before: branches among them, each as one channel.
        held: groups that the rewrite could not shrink further -> the reason; those that are found are added.
        effects: what the output loses with each branch, where that was measured.

    Raises:
        PruneError: what could be rewritten before cannot be any more (a bug in fxprune: please report it).
    """
    options, open_to = policy.options, _open(analysis, before)
    there = {group.id for group in open_to.free}
    while True:
        known = {n: s for n, s in scores.items() if n in there and not (options.budgets and n in held)}
        take = partial(chosen_with_branches, effects=effects) if options.branches else chosen
        found = take(policy, open_to, known)
        gone = {n: _both(before.get(n), found.get(n) if n not in held else None) for n in {**before, **found}}
        rewritten = rewrite(analysis, {n: c for n, c in gone.items() if len(c)}, options.passes)
        if not rewritten.frozen:
            branches = {name: np.zeros(1, np.int64) for name in rewritten.cut.analysis.without_branches}
            return {**rewritten.cut.gone, **branches}, rewritten
        if again := sorted(rewritten.frozen.keys() & held.keys()):
            raise PruneError(f"{again[0]!r} could be rewritten in the step before and cannot now: {rewritten.frozen[again[0]]}")
        held.update(rewritten.frozen)


def _both(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray:
    return np.array(sorted({*([] if one is None else one.tolist()), *([] if other is None else other.tolist())}), np.int64)


def _open(analysis: Analysis, before: Collection[str]) -> Analysis:
    """The analysis without the branches that went, in which groups that exclude one that has lost channels stay whole."""
    closed = {other for name in before for other in analysis.exclusive.get(name, ())} - {*before}
    why = "a grouped convolution has lost whole groups or channels within them, and not both go"
    if closed:
        analysis = replace(analysis, groups=[_frozen(g, why) if g.id in closed else g for g in analysis.groups])
    free = {group.id for group in analysis.full.free}
    return analysis.without(name for name in before if name not in free)


def _frozen(group: Group, why: str) -> Group:
    return replace(group, status="frozen", reason=why)
