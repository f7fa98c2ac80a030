"""Parts of a report beside its groups: budgets, repair, branches, training, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fxprune.planning.plan import Plan
from fxprune.planning.report import Report
from fxprune.reporting.tiles import bytes_of, percent

__all__ = ["branches_of", "budgets_of", "limits_of", "repair_of", "settings_of", "training_of"]

_BINDS = 0.99  # of a budget: what is as near as that keeps the plan from keeping more
_NAMES = {"macs": "MACs", "params": "Parameters", "memory": "Peak memory", "latency": "Latency (predicted)"}
_HIDDEN = ("submodules",)  # options that are told elsewhere
_LEAST = 1e-12  # of an error on a logarithmic axis


def budgets_of(plan: Plan) -> dict[str, Any] | None:
    """Each budget with what it allows and what is left, whether it binds, and what was kept of the saliency."""
    account = plan.account
    if account is None:
        return None
    rows = []
    for budget in account.budgets:
        before, target, after = (_amount(budget.name, count) for count in (budget.before, budget.target, budget.after))
        used = budget.after / budget.target if budget.target else 1.0
        binds = budget.after < budget.before and used >= _BINDS
        rows.append(
            {
                "name": _NAMES.get(budget.name, budget.name),
                "before": budget.before,
                "target": budget.target,
                "after": budget.after,
                "before_text": before,
                "target_text": target,
                "after_text": after,
                "share": budget.after / max(budget.before, 1),
                "target_share": budget.target / max(budget.before, 1),
                "used": used,
                "used_text": percent(min(used, 1.0)),
                "binds": binds,
            }
        )
    return {
        "rows": rows,
        "saliency": account.saliency,
        "saliency_text": percent(account.saliency),
        "bound": account.bound,
        "bound_text": percent(account.bound),
        "gap_text": percent(account.gap),
        "notes": list(account.notes),
    }


def _amount(name: str, count: int) -> str:
    if name == "memory":
        return bytes_of((count, count))[0]
    return f"{count / 1e6:,.2f} ms" if name == "latency" else f"{count:,}"


def limits_of(plan: Plan) -> dict[str, Any]:
    """Groups that gave up all that `max_ratio` and `min_width` let go, where these are one number each."""
    options = plan.options
    most, least = options.get("max_ratio"), options.get("min_width", 1)
    if not isinstance(most, (int, float)) or not isinstance(least, int):
        return {"groups": [], "names": [], "text": ""}
    found = []
    for number, group in enumerate(plan.groups):
        limit = max(least, math.ceil(group.size * (1 - most) - 1e-9))
        if group.status == "free" and len(group.kept) < group.size and len(group.kept) <= limit:
            found.append(number)
    what = f"max_ratio = {most:g}" + (f" or min_width = {least}" if least > 1 else "")
    names = [plan.groups[number].id for number in found]
    verb = "groups keep" if len(found) > 1 else "group keeps"
    return {"groups": found, "names": names, "text": f"{len(found)} {verb} the least that {what} allows." if found else ""}


def repair_of(report: Report | None) -> dict[str, Any] | None:
    """What a repair did at each layer and norm, on images that it did not learn from."""
    found = None if report is None else report.repair
    if found is None:
        return None
    sites: list[dict[str, Any]] = [
        {
            "name": site.name,
            "kind": site.kind,
            "before": _finite(site.before),
            "after": _finite(site.after),
            "before_text": _four(site.before),
            "after_text": _four(site.after),
            "kept": site.kept,
            "rectified": site.rectified,
        }
        for site in found.sites
    ]
    scale = _decades([value for site in sites for value in (site["before"], site["after"]) if value])
    for site in sites:
        site["y"] = [_height(site[side], scale) for side in ("before", "after")]
    return {
        "sites": sites,
        "ticks": [
            {"text": f"1e{power}" if power else "1", "y": _height(10.0**power, scale)} for power in range(*_range(scale))
        ],
        "images": list(found.images),
        "before": _finite(found.before),
        "after": _finite(found.after),
        "before_text": _four(found.before),
        "after_text": _four(found.after),
        "kept": found.kept,
        "left": dict(found.left),
        "seconds": found.seconds,
        "text": str(found),
        "repaired": len(found.repaired),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _decades(values: list[float]) -> tuple[int, int]:
    """Powers of ten between which all errors lie."""
    if not values:
        return (-1, 0)
    low, high = math.floor(math.log10(max(min(values), _LEAST))), math.ceil(math.log10(max(*values, _LEAST, _LEAST)))
    return (low, max(high, low + 1))


def _range(scale: tuple[int, int]) -> tuple[int, int, int]:
    """The powers of ten that get a tick: six at most."""
    low, high = scale
    return (low, high + 1, max(1, math.ceil((high - low) / 5)))


def _height(value: float | None, scale: tuple[int, int]) -> float | None:
    """Where an error lies on a logarithmic axis: 0 its low end, 1 its high one; None where there is none, or it is 0."""
    if not value:
        return None
    low, high = scale
    return round(float(np.clip((math.log10(max(value, 10.0**low)) - low) / (high - low), 0, 1)), 4)


def branches_of(plan: Plan) -> list[dict[str, Any]]:
    """Residual branches, where they were candidates."""
    return [
        {
            "id": branch.id,
            "kept": branch.kept,
            "reason": branch.reason,
            "macs": branch.macs,
            "params": branch.params,
            "macs_text": f"{branch.macs:,}",
            "params_text": f"{branch.params:,}",
            "score": branch.score,
        }
        for branch in plan.branches
    ]


def training_of(report: Report | None) -> dict[str, Any] | None:
    """What `fxprune.finetune` did: its epochs, column by column as it wrote them."""
    record = None if report is None else report.finetuning
    epochs = [] if record is None else [epoch for epoch in record.get("epochs", ()) if isinstance(epoch, Mapping)]
    if not epochs:
        return None
    columns = list(
        dict.fromkeys(name for epoch in epochs for name, value in epoch.items() if not isinstance(value, (dict, list)))
    )
    rows = [[_cell(epoch.get(name)) for name in columns] for epoch in epochs]
    return {"columns": columns, "rows": rows}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_of(plan: Plan, report: Report | None) -> dict[str, Any]:
    """With what the plan was made, what each pass did, and how long each step took."""
    options = [
        [name, _option(value)] for name, value in plan.options.items() if name not in _HIDDEN and value not in (None, [])
    ]
    parts = [str(entry.get("name", "")) for entry in plan.options.get("submodules", ()) if isinstance(entry, Mapping)]
    example = [_shape(entry) for entry in plan.example]
    passes = (
        []
        if report is None
        else [
            [name, ", ".join(f"{what.replace('_', ' ')} {count:,}" for what, count in counts.items() if count)]
            for name, counts in report.counters.items()
        ]
    )
    return {
        "options": options,
        "submodules": parts,
        "example": [text for text in example if text],
        "fingerprint": plan.fingerprint,
        "passes": [entry for entry in passes if entry[1]],
        "seconds": [] if report is None else [[step, f"{seconds:.2f} s"] for step, seconds in report.seconds.items()],
    }


def _option(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_option(entry)}" for name, entry in value.items())
    return ", ".join(map(_option, value)) if isinstance(value, (list, tuple)) else str(value)


def _shape(entry: Mapping[str, Any]) -> str:
    """An example input, as ``x: 1 x 3 x 224 x 224 float32``."""
    value = entry.get("value")
    if not isinstance(value, Mapping) or not isinstance(value.get("shape"), list):
        return ""
    text = f"{' x '.join(map(str, value['shape']))} {value.get('dtype', '')}".strip()
    return f"{entry['name']}: {text}" if entry.get("name") else text
