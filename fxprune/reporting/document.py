"""All that a report shows, as one plain document for JSON: the page only lays it out."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from fxprune import nested
from fxprune.planning.branch_plan import lost_groups
from fxprune.planning.plan import GroupPlan, Plan
from fxprune.planning.report import Report
from fxprune.planning.validation import Validation
from fxprune.reporting.certificates import certificates_of, verdict_of
from fxprune.reporting.distributions import distribution_of, of_all
from fxprune.reporting.lanes import drawing
from fxprune.reporting.parts import branches_of, budgets_of, limits_of, repair_of, settings_of, training_of
from fxprune.reporting.tiles import percent, tiles_of

__all__ = ["document_of"]

_FORM, _VERSION = "fxprune-report", 1
_ROLES = ("producer", "affine", "consumer")


def document_of(plan: Plan, report: Report | None = None, validation: Validation | None = None) -> dict[str, Any]:
    """The document of a plan, and of what was done by it.

    Args:
        report: of the slim model, if there is one.
        validation: of it; that in the report if not given.

    Returns:
        ``tiles`` (`fxprune.reporting.tiles`), ``groups`` in the order of the network with members and scores, ``drawing``
        (`fxprune.reporting.lanes`), ``scores`` of all channels, ``widest`` group, ``whole`` (what lost nothing, by reason),
        ``verdict`` and ``certificates``, ``budgets``, ``limits``, ``repair``, ``branches``, ``training``, ``settings`` and
        ``notes``; None or empty where there is nothing to say. Numbers that are not finite are None.
    """
    validation = validation or (None if report is None else report.validation)
    lost, scores = lost_groups(plan), [distribution_of(group) for group in plan.groups]
    document = {
        "format": _FORM,
        "version": _VERSION,
        "fxprune": importlib.import_module("fxprune").__version__,  # which stands above all rooms of the package
        "model": plan.model,
        "state": "planned" if report is None else "pruned",
        "summary": _summary(plan),
        "verdict": verdict_of(report),
        "tiles": tiles_of(plan, report, validation),
        "groups": [_group(group, lost, own) for group, own in zip(plan.groups, scores, strict=True)],
        "widest": max((group.size for group in plan.groups), default=0),
        "scores": of_all(plan, scores),
        "drawing": drawing(plan.groups),
        "whole": _whole(plan, lost),
        "certificates": certificates_of(report),
        "budgets": budgets_of(plan),
        "limits": limits_of(plan),
        "repair": repair_of(report),
        "branches": branches_of(plan),
        "training": training_of(report),
        "settings": settings_of(plan, report),
        "notes": _notes(plan, report, validation),
    }
    plain: dict[str, Any] = nested.plain(document)
    return plain


def _summary(plan: Plan) -> str:
    """What was asked for, in a sentence."""
    free = [group for group in plan.groups if group.status == "free"]
    gone, size = sum(len(group.removed) for group in free), sum(group.size for group in free)
    touched = sum(len(group.kept) < group.size for group in free)
    verb = f"{gone:,} of {size:,} channels go, from {touched} of {len(plan.groups)} groups"
    criterion, scope = plan.options.get("criterion"), plan.options.get("scope")
    how = f", ranked by {criterion}" if isinstance(criterion, str) else ""
    how += f" ({scope})" if how and isinstance(scope, str) else ""
    return f"{verb}{how}." if size else "No group of this model may be pruned."


def _group(group: GroupPlan, lost: set[str], scores: dict[str, Any] | None) -> dict[str, Any]:
    kept, gone_whole = len(group.kept), group.id in lost
    status = "branch" if gone_whole else "pruned" if kept < group.size else group.status
    share = 0.0 if gone_whole else kept / max(group.size, 1)
    return {
        "id": group.id,
        "size": group.size,
        "kept": 0 if gone_whole else kept,
        "share": share,
        "share_text": percent(share),
        "status": status,
        "reason": group.reason or ("free, and ranked above the cut" if status == "free" else ""),
        "exact": group.exact,
        "members": [[name, axis, role] for role in _ROLES for name, axis, own in group.members if own == role],
        "scores": scores,
    }


def _whole(plan: Plan, lost: set[str]) -> list[dict[str, Any]]:
    """What keeps all of its channels, by reason, the most channels first; last, parameters that no group lists."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for number, group in enumerate(plan.groups):
        if len(group.kept) < group.size or group.id in lost:
            continue
        reason = group.reason or "ranked above the cut"
        entry = found.setdefault((group.status, reason), _entry(group.status, reason))
        entry["groups"].append(number)
        entry["names"].append(group.id)
        entry["channels"] += group.size
    rows = sorted(found.values(), key=lambda entry: (entry["status"] == "free", -entry["channels"]))
    outside: dict[str, dict[str, Any]] = {}
    for name, reason in plan.whole.items():
        outside.setdefault(reason, _entry("outside", reason))["names"].append(name)
    return [*rows, *outside.values()]


def _entry(status: str, reason: str) -> dict[str, Any]:
    names: list[str] = []
    groups: list[int] = []
    return {"status": status, "reason": reason, "groups": groups, "names": names, "channels": 0}


def _notes(plan: Plan, report: Report | None, validation: Validation | None) -> list[str]:
    """What to know, each once: budgets tell theirs themselves."""
    told: Sequence[str] = [] if plan.account is None else plan.account.notes
    notes = [] if report is None else [note for note in report.notes if note not in told]
    if report is not None:
        notes += [f"Only one mode could be recorded, not {mode}: {why}" for mode, why in report.refused.items()]
        notes += [f"{name or 'The model itself'} runs generated code: {why}" for name, why in _generated(report).items()]
        if report.exact_norms:
            layers = sorted(set(report.exact_norms.values()))
            notes.append(f"{len(layers)} norms count channels that went as zeros: {', '.join(layers)}")
        if report.step is not None:
            notes.append(f"Step {report.step.number} of {report.step.of}.")
    if validation is not None:
        notes += validation.notes
    return list(dict.fromkeys(notes))


def _generated(report: Report) -> dict[str, str]:
    return {} if report.own_class is None else report.own_class.generated
