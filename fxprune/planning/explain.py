"""Why a layer is pruned, protected or frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fxprune.errors import InputError, nearest, shown
from fxprune.planning.plan import GroupPlan, Plan

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["Answer", "explain"]


@dataclass
class Answer:
    """What is known of the output channels of one layer.

    Attributes:
        layer: the name asked for.
        status: ``"pruned"``, ``"free"`` (may be pruned, and is whole), ``"protected"`` or ``"frozen"``; of several
            groups, the first in that order.
        parts: one a group: ``(group id, status, channels kept, channels, reason)``.
        coupled: other tensors that share the channels.
    """

    layer: str
    status: str
    parts: list[tuple[str, str, int, int, str]] = field(default_factory=list)
    coupled: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.layer}: {self.status}"]
        for name, status, kept, size, reason in self.parts:
            count = f", {kept} of {size} channels" if size else ""
            lines.append(f"  {name}: {status}{count}" + (f": {reason}" if reason else ""))
        if self.coupled:
            shown = ", ".join(self.coupled[:12]) + (f" and {len(self.coupled) - 12} more" if len(self.coupled) > 12 else "")
            lines.append(f"  coupled with {shown}")
        return "\n".join(lines)


_ORDER = ("pruned", "free", "protected", "frozen")


def explain(plan: Plan, layer: str, analysis: Analysis | None = None) -> Answer:
    """Look a module or parameter name up in a plan.

    Raises:
        InputError: the model has no such layer, or it has no channels of its own.
    """
    if not isinstance(layer, str):
        raise InputError(f"layer must be the name of a module or parameter, as 'layer1.conv', not {shown(layer)}")
    parts, coupled = [], list[str]()
    names = {layer, *(first for other, first in plan.tied.items() if _belongs(other, layer))}

    def mine_is(tensor: str) -> bool:
        return any(_belongs(tensor, name) for name in names)

    gone = [b for b in plan.branches if not b.kept and (b.id == layer or any(mine_is(name) for name in b.tensors))]
    parts += [(branch.id, "pruned", 0, 0, "it goes as a whole: a residual branch") for branch in gone]
    for group in plan.groups:
        mine = [m for m in group.members if mine_is(m[0])]
        own = [m for m in mine if m[2] != "consumer"]
        if not own:
            continue
        parts.append((group.id, _status(group), len(group.kept), group.size, group.reason))
        coupled += [f"{n} (axis {a}, {role})" for n, a, role in group.members if not mine_is(n)]
    parts += [(name, "frozen", 0, 0, reason) for name, reason in plan.whole.items() if mine_is(name)]
    if not parts:
        known = {m[0] for g in plan.groups for m in g.members} | set(plan.whole)
        modules = {n.rpartition(".")[0] for n in known} | known
        if analysis is not None:
            modules |= {n for n, _ in analysis.traced.skeleton.named_modules()}
        if layer in modules:
            return Answer(layer, "frozen", [(layer, "frozen", 0, 0, "it has no channels of its own")])
        raise InputError(f"the model has no layer {shown(layer)} with channels{nearest(layer, sorted(modules))}")
    status = min((p[1] for p in parts), key=_ORDER.index)
    return Answer(layer, status, parts, list(dict.fromkeys(coupled)))


def _belongs(tensor: str, layer: str) -> bool:
    return tensor == layer or tensor.startswith(layer + ".")


def _status(group: GroupPlan) -> str:
    if group.status == "free":
        return "pruned" if len(group.kept) < group.size else "free"
    return group.status
