"""A plan: which channels go, as a plain JSON document that can be reviewed, stored and applied later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from torch import nn

from fxprune.analysis.groups import Group
from fxprune.errors import InputError, PlanMismatch, nearest, shown
from fxprune.options import PruneOptions
from fxprune.planning.account import Account
from fxprune.planning.branch_plan import BranchPlan, check_branches, read_branch
from fxprune.planning.indented import indented
from fxprune.planning.reading import count, counts, document_of_text, entries, number, once, text, texts, truth
from fxprune.planning.schema import plan_schema
from fxprune.planning.summary import Difference, difference, summary
from fxprune.state import named_tensors

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["GroupPlan", "Plan", "checked_plan", "fingerprint"]

_VERSION = 1
_WITH_BRANCHES = 2  # where a plan lists branches, which fxprune of version 1 does not know
_MOST_LEVELS = 100
_MOST_CHANNELS = 10**7  # of a group; what goes is listed, which must take neither hours nor all memory


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
        account: how the budgets were met, where the plan was made for any.
        branches: residual branches, where they were candidates: those that go and those that stay.
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
    account: Account | None = None
    branches: list[BranchPlan] = field(default_factory=list)

    def group(self, name: str) -> GroupPlan:
        """The group of that id."""
        for group in self.groups:
            if isinstance(name, str) and group.id == name:
                return group
        raise PlanMismatch(f"the plan has no group {shown(name)}{nearest(name, [g.id for g in self.groups])}")

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

    def summary(self, rows: int = 40) -> str:
        """The plan in words: costs, options, so many groups that lose channels, and why the others do not."""
        return summary(self, rows)

    def diff(self, other: Plan) -> Difference:
        """What this plan keeps (first) and another one of the same model (second); print it.

        Raises:
            PlanMismatch: the other is for another model.
        """
        return difference(self, checked_plan(other))

    @staticmethod
    def schema() -> dict[str, Any]:
        """The JSON schema (draft 2020-12) of what `to_json` writes; its version is that of the documents."""
        return plan_schema(_VERSION, _WITH_BRANCHES)

    def gone(self, free: Iterable[Group]) -> dict[str, list[int]]:
        """Channels that go of each of a model's free groups.

        Raises:
            PlanMismatch: the model has other groups.
        """
        sizes = {group.id: group.size for group in free}
        gone = {}
        for group in self.groups:
            if not isinstance(group.kept, list) or not {int}.issuperset(map(type, group.kept)):
                raise PlanMismatch(f"the kept channels of group {group.id!r} are not a list of numbers")
            if len(group.kept) == group.size:
                continue
            if sizes.get(group.id) != group.size:
                raise PlanMismatch(
                    f"the plan removes channels of group {shown(group.id)} of {group.size}, which the model does not have"
                )
            gone[group.id] = group.removed
            if len(gone[group.id]) + len(group.kept) != group.size or not group.kept:
                raise PlanMismatch(f"the kept channels of group {group.id!r} are not numbers below {group.size}, each once")
        return gone

    def cuts(self, analysis: Analysis) -> dict[str, list[int]]:
        """All that goes, as `Analysis.cut` takes it: channels of groups, and whole branches.

        Raises:
            PlanMismatch: the model has other groups or branches.
        """
        return self.gone(analysis.free) | check_branches(self.branches, analysis)

    def to_json(self) -> str:
        """The plan as text: the same plan gives the same bytes."""
        document = _shown(self)
        document["groups"] = [_shown(group) for group in self.groups]
        if branches := document.pop("branches"):
            document["branches"] = [_shown(branch) for branch in branches]
            document["version"] = _WITH_BRANCHES
        account = document.pop("account")  # a plan by a ratio has none
        if account is not None:
            document["account"] = account.to_dict()
        document["kept"] = {name: {str(a): i for a, i in axes.items()} for name, axes in self.kept.items()}
        head = json.dumps({"format": "fxprune-plan", "version": document.pop("version")})[:-1]
        return head + ", " + indented(document)[1:] + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back.

        Raises:
            PlanMismatch: the text is not a plan, is damaged, or is of a version that this fxprune cannot read.
        """
        document = document_of_text(text, "fxprune-plan", _WITH_BRANCHES, PlanMismatch, first=_VERSION)
        try:
            return _read(cls, document)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise PlanMismatch(f"the plan is damaged: {type(error).__name__}: {error!s:.300}") from error


def _shown(part: Plan | GroupPlan | BranchPlan) -> dict[str, Any]:
    """The fields of a dataclass by name, nothing copied."""
    return {field.name: getattr(part, field.name) for field in fields(part)}


def _read(kind: type[Plan], document: dict[str, Any]) -> Plan:
    """The plan of a document, all of it checked but for what only the model can tell."""
    made: dict[str, Any] = {
        "model": text(document.pop("model")),
        "fingerprint": text(document.pop("fingerprint")),
        "options": _shallow(dict(**document.pop("options"))),
        "groups": entries(document.pop("groups"), _read_group),
        "kept": {name: _kept(axes) for name, axes in document.pop("kept").items()},
        "whole": texts(document.pop("whole", {})),
        "tied": texts(document.pop("tied", {})),
        "example": entries(document.pop("example", []), lambda entry: _shallow(dict(**entry))),
    }
    if "branches" in document:
        made["branches"] = entries(document.pop("branches"), read_branch)
        once(branch.id for branch in made["branches"])
    if "account" in document:
        made["account"] = Account.from_dict(dict(**document.pop("account")))
    macs, params = (entries(document.pop(key), count, size=2) for key in ("macs", "params"))
    plan = kind(**made, macs=(macs[0], macs[1]), params=(params[0], params[1]), **document)
    once(group.id for group in plan.groups)
    return plan


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    """
    Raises:
        ValueError: it is nested so deeply that walking over it could end in a RecursionError.
    """
    level: list[Any] = [value]
    for _ in range(_MOST_LEVELS):
        level = [part for v in level if isinstance(v, (dict, list)) for part in (v.values() if isinstance(v, dict) else v)]
    if level:
        raise ValueError("it is nested too deeply")
    return value


def _read_group(data: Mapping[str, Any]) -> GroupPlan:
    group = GroupPlan(**data)
    text(group.id), text(group.reason), truth(group.exact)
    if group.status not in ("free", "protected", "frozen"):
        raise ValueError(f"{shown(group.status)} is no status")
    members: list[Any] = entries(data["members"])
    group.members = [(text(n), count(a), text(r)) for n, a, r in members]
    group.kept = counts(group.kept)
    size = count(group.size)
    if group.kept != sorted(set(group.kept)) or not group.kept or group.kept[-1] >= size:
        raise ValueError(f"the kept channels of group {shown(group.id)} are not sorted numbers below {size}")
    if size > _MOST_CHANNELS and len(group.kept) != size:
        raise ValueError(f"group {shown(group.id)} cannot have {size} channels")
    if group.scores is not None:
        group.scores = entries(group.scores, number, size)
    return group


def _kept(axes: Mapping[str, Any]) -> dict[int, list[int]]:
    """Kept indices by axis, whose number is written as text: that of a count, in the one way that there is."""
    if not all(key.isdecimal() and len(key) < 3 and str(int(key)) == key for key in axes):
        raise ValueError(f"{shown(list(axes))} are no numbers of axes")
    return {int(key): counts(indices) for key, indices in axes.items()}


def fingerprint(model: nn.Module) -> str:
    """Of the names and shapes of parameters and buffers: another checkpoint of the same architecture has the same."""
    lines = [f"{n} {tuple(t.shape)}" for n, t in named_tensors(model, once=True).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def checked_plan(given: Any) -> Plan:
    """
    Raises:
        InputError: this is no plan.
    """
    if not isinstance(given, Plan):
        raise InputError(f"a plan is what plan() gives or Plan.from_json(text) reads, not {shown(given)}")
    return given
