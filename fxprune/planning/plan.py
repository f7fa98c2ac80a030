"""A plan: which channels go, as a plain JSON document that can be reviewed, stored and applied later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn

from fxprune.analysis.groups import Group
from fxprune.errors import InputError, PlanMismatch
from fxprune.options import PruneOptions
from fxprune.planning.indented import indented
from fxprune.state import named_tensors

__all__ = ["GroupPlan", "Plan", "fingerprint"]

_VERSION = 1


@dataclass
class GroupPlan:
    """What a plan says of one group.

    Attributes:
        id, size, status, reason, exact: as in `fxprune.Group`.
        members: ``[tensor name, axis, role]`` of each.
        kept: channel numbers that stay; all of them for protected and frozen groups.
        scores: one a channel, where a criterion was asked.
    """

    id: str
    size: int
    status: str
    reason: str
    exact: bool
    members: list[tuple[str, int, str]]
    kept: list[int]
    scores: list[float] | None = None

    @property
    def removed(self) -> list[int]:
        kept = set(self.kept)
        return [c for c in range(self.size) if c not in kept]


@dataclass
class Plan:
    """Which channels of one model go.

    Attributes:
        model: class name of the model.
        fingerprint: of the names and shapes of its parameters and buffers.
        options: the arguments that the plan was made with.
        groups: every group, with what is kept of it or why it stays whole.
        kept: ``{tensor name: {axis: kept indices}}`` for every axis that loses something.
        macs, params: before and after, for one sample.
        whole: parameters that no group lists (no axis of theirs is a channel that could go) -> the reason.
        tied: other names of tied tensors -> the name that the plan uses.
        example: shapes and dtypes of the example inputs.
    """

    model: str
    fingerprint: str
    options: dict[str, Any]
    groups: list[GroupPlan]
    kept: dict[str, dict[int, list[int]]]
    macs: tuple[int, int]
    params: tuple[int, int]
    whole: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    example: list[dict[str, Any]] = field(default_factory=list)
    version: int = _VERSION

    def group(self, name: str) -> GroupPlan:
        """The group of that id."""
        for group in self.groups:
            if group.id == name:
                return group
        raise PlanMismatch(f"the plan has no group {name!r}")

    @property
    def settings(self) -> PruneOptions:
        """What `options` says, checked.

        Raises:
            PlanMismatch: it says nothing that a plan could have been made with.
        """
        try:
            return PruneOptions.from_json(self.options)
        except (InputError, TypeError, AttributeError) as error:
            raise PlanMismatch(f"the plan's options are damaged: {error}") from error

    def gone(self, free: Iterable[Group]) -> dict[str, list[int]]:
        """Channels that go of each of a model's free groups.

        Raises:
            PlanMismatch: the model has other groups.
        """
        sizes = {group.id: group.size for group in free}
        gone = {}
        for group in self.groups:
            if not (removed := group.removed):
                continue
            if sizes.get(group.id) != group.size:
                raise PlanMismatch(
                    f"the plan removes channels of a group {group.id!r} of {group.size}, which the model does not have"
                )
            gone[group.id] = removed
        return gone

    def to_json(self) -> str:
        """The plan as text: the same plan gives the same bytes."""
        document = _shown(self)
        document["groups"] = [_shown(group) for group in self.groups]
        document["kept"] = {name: {str(a): i for a, i in axes.items()} for name, axes in self.kept.items()}
        head = json.dumps({"format": "fxprune-plan", "version": document.pop("version")})[:-1]
        return head + ", " + indented(document)[1:] + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back.

        Raises:
            PlanMismatch: the text is not a plan, is damaged, or is of a version that this fxprune cannot read.
        """
        try:
            document = json.loads(text)
        except (json.JSONDecodeError, TypeError, UnicodeDecodeError, RecursionError) as error:
            raise PlanMismatch(f"this is not a plan: the text is not JSON ({error})") from error
        if not isinstance(document, dict) or document.pop("format", None) != "fxprune-plan":
            raise PlanMismatch("this is not a plan: the JSON document has no format 'fxprune-plan'")
        version = document.get("version")
        if version != _VERSION:
            raise PlanMismatch(f"the plan has version {version!r}; this fxprune reads version {_VERSION}")
        try:
            groups = [_read_group(g) for g in document.pop("groups")]
            kept = {str(n): {int(a): _counts(ids) for a, ids in axes.items()} for n, axes in document.pop("kept").items()}
            macs, params = (tuple(_count(n) for n in document.pop(key)) for key in ("macs", "params"))
            plan = cls(groups=groups, kept=kept, macs=macs, params=params, **document)  # type: ignore[arg-type]
            if not (isinstance(plan.model, str) and isinstance(plan.fingerprint, str) and isinstance(plan.options, dict)):
                raise TypeError("model, fingerprint or options have the wrong kind")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanMismatch(f"the plan is damaged: {type(error).__name__}: {error}") from error
        return plan


def _shown(part: Plan | GroupPlan) -> dict[str, Any]:
    """The fields of a dataclass by name, nothing copied."""
    return {field.name: getattr(part, field.name) for field in fields(part)}


def _read_group(data: Mapping[str, Any]) -> GroupPlan:
    group = GroupPlan(**data)
    group.members = [(str(n), _count(a), str(r)) for n, a, r in group.members]
    group.kept = _counts(group.kept)
    size = _count(group.size)
    if group.kept != sorted(set(group.kept)) or not group.kept or group.kept[-1] >= size:
        raise ValueError(f"the kept channels of group {group.id!r} are not sorted numbers below {size}")
    return group


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _counts(values: Iterable[Any]) -> list[int]:
    counts = list(values)
    if not {int}.issuperset(map(type, counts)) or min(counts, default=0) < 0:
        return [_count(value) for value in counts]  # which names the first that is none
    return counts


def fingerprint(model: nn.Module) -> str:
    """Of the names and shapes of parameters and buffers: another checkpoint of the same architecture has the same."""
    lines = [f"{n} {tuple(t.shape)}" for n, t in named_tensors(model, once=True).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
