"""Plans that were changed by hand, or put together from two: settled again, so that they can be applied."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from fxprune.analysis.analysis import Analysis
from fxprune.errors import InputError, PlanMismatch, nearest, shown
from fxprune.options import one_of, several
from fxprune.planning.document import document_of
from fxprune.planning.plan import GroupPlan, Plan, checked_plan
from fxprune.planning.summary import difference
from fxprune.rewrite import rewrite
from fxprune.submodules.target import Target

__all__ = ["revise"]

How = Literal["either", "both"]


def revise(
    model: nn.Module,
    plan: Plan,
    kept: Mapping[str, int | Iterable[int]] | None = None,
    *,
    merge: Plan | None = None,
    how: How = "either",
) -> Plan:
    """Change what a plan keeps, and settle the rest of it: the indices of every tensor, MACs and parameters.

    >>> from fxprune import plan
    >>> half = plan(net, 0.5, x)
    >>> wider = revise(net, half, {"0": 12})
    >>> len(half.group("0.weight").kept), len(wider.group("0.weight").kept), wider.macs
    (8, 12, (160, 120))

    Args:
        model: that the plan was made for; only shapes matter.
        plan: it is not modified. If `kept` of its groups was changed in its JSON, nothing more need be given.
        kept: ``{group id, or name or glob of layers: what its groups keep}``: a number of channels, those of the highest scores
            in the plan, or the channels themselves. Of a residual branch (`Analysis.branches`): False, it goes; True, it stays.
        merge: a second plan of the same model.
        how: what goes of two plans: what ``"either"`` takes, or ``"both"``.

    Raises:
        PlanMismatch: a plan is for another model.
        InputError: a name matches no group that may be pruned, or the channels are none of it.
    """
    target = Target.of_plan(model, checked_plan(plan))
    settings = plan.settings
    analysis = target.analyze(settings.attention, settings.ignore)
    gone = {name: set(channels) for name, channels in plan.cuts(analysis).items()}
    one_of("how", how, get_args(How))
    if merge is not None:
        difference(plan, checked_plan(merge))
        other = {name: set(channels) for name, channels in merge.cuts(analysis).items()}
        names = gone.keys() | other.keys()
        gone = {n: _merged(gone.get(n, set()), other.get(n, set()), how) for n in sorted(names)}
    free = {group.id for group in analysis.free}
    for pattern, wanted in _items(kept):
        if isinstance(wanted, (bool, np.bool_)):
            gone |= {name: set[int]() if wanted else {0} for name in _branches(analysis, pattern)}
            continue
        for group in _matching(plan, pattern, free):
            gone[group.id] = set(range(group.size)) - set(_chosen(group, wanted))
    for name, channels in gone.items():
        if name in free and len(channels) == analysis.group(name).size:
            raise InputError(f"nothing would be left of group {name!r}: keep at least one channel")
    cuts = {name: np.array(sorted(channels), np.int64) for name, channels in gone.items() if channels}
    rewritten = rewrite(analysis, cuts, settings.passes)
    scores = {g.id: np.array(g.scores) for g in plan.groups if g.scores is not None and g.id in free}
    scores |= {b.id: np.array([b.score]) for b in plan.branches if b.score is not None}
    return document_of(target.model, rewritten.cut, {**plan.options, "revised": True}, scores, rewritten.frozen)


def _branches(analysis: Analysis, pattern: str) -> list[str]:
    """The branches of that id, or whose ids match the pattern; of several, those that may go.

    Raises:
        InputError: there are none that may.
    """
    known = analysis.branches.all
    found = [name for name, branch in known.items() if fnmatch.fnmatchcase(name, pattern) and not branch.reason]
    return [pattern] if pattern in found else found or [analysis.branch(pattern).id]


def _merged(one: set[int], other: set[int], how: str) -> set[int]:
    return one | other if how == "either" else one & other


def _items(kept: Any) -> Iterable[tuple[str, Any]]:
    if kept is None:
        return ()
    if not isinstance(kept, Mapping) or not all(isinstance(name, str) for name in kept):
        raise InputError(f"kept must map names of groups or layers to what they keep, as {{'conv1': 24}}, not {shown(kept)}")
    return kept.items()


def _matching(plan: Plan, pattern: str, free: set[str]) -> list[GroupPlan]:
    """The free groups of that id, or those whose first tensor lies in a layer of that name.

    Raises:
        InputError: there are none.
    """
    names = {group.id: _producers(group) for group in plan.groups}
    hits = [g for g in plan.groups if g.id == pattern or any(fnmatch.fnmatchcase(n, pattern) for n in names[g.id])]
    found = [group for group in hits if group.id in free]
    if not found:
        why = f": {hits[0].id!r} is {hits[0].status}, {hits[0].reason}" if hits else nearest(pattern, sorted(free))
        raise InputError(f"kept: {shown(pattern)} is no group that may be pruned{why}")
    return found


def _producers(group: GroupPlan) -> list[str]:
    members = [name for name, _, role in group.members if role == "producer"] or [name for name, _, _ in group.members]
    return [*members, *(name.rpartition(".")[0] for name in members)]


def _chosen(group: GroupPlan, wanted: Any) -> list[int]:
    """The channels that a group keeps, from their number or from themselves."""
    if isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool):
        if not 0 < wanted <= group.size:
            raise InputError(f"kept: group {group.id!r} has {group.size} channels and cannot keep {wanted}")
        if group.scores is None:
            raise PlanMismatch(f"the plan holds no scores of group {group.id!r}: say which channels are kept, not how many")
        return np.argsort(np.array(group.scores), kind="stable")[group.size - int(wanted) :].tolist()
    channels = [*several(wanted, f"what {group.id!r} keeps")]
    right = all(isinstance(c, (int, np.integer)) and not isinstance(c, bool) and 0 <= c < group.size for c in channels)
    if not channels or not right or len(set(channels)) != len(channels):
        raise InputError(
            f"kept: group {group.id!r} must keep some of its {group.size} channels, each once, by number, not {shown(channels)}"
        )
    return [int(c) for c in channels]
