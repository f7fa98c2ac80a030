"""The table of deployment: what runs, dense and slim side by side, and every difference with what is known of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deployment_checks import GROUPS, Result

__all__ = ["FORMS", "differences", "table"]

FORMS = {"dense": "the original", "slim": "`prune`, a GraphModule", "own": "`shrink`, the original's class"}
CHECKS = [name for group in GROUPS.values() for name in group]
CLOSE = 1e-4  # relative, of what computes in float32
ROUNDED = ("bf16", "int8 dynamic", "int8 static")  # these round by design: that they run is what counts
NOTES = Path(__file__).parent / "results" / "deployment_notes.json"

Row = dict[str, Any]


def runs(check: str, result: Result | None) -> bool | None:
    """Whether a check ran and computed what eager PyTorch does; None where it was not tried."""
    if result is None:
        return None
    return "error" in result and (check in ROUNDED or result["error"] <= CLOSE)


def differences(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """``(model, form, check)`` where a slim form does what its original does not, or the reverse."""
    found = []
    for row in rows:
        dense = row["forms"].get("dense", {})
        for form in ("slim", "own"):
            for check in CHECKS:
                one, other = runs(check, dense.get(check)), runs(check, row["forms"].get(form, {}).get(check))
                if one is not None and other is not None and one != other:
                    found.append((row["model"], form, check))
    return found


def note_of(model: str, form: str, check: str, notes: dict[str, str]) -> str | None:
    """What is known of a difference: of this model and check, or of this check."""
    keys = (f"{model} {form} {check}", f"{model} {check}", f"{form} {check}", check)
    return next((notes[key] for key in keys if key in notes), None)


def table(rows: list[Row], environment: dict[str, str]) -> str:
    """Counts, differences, then a row for each model and form and a column for each check."""
    rows = [row for row in rows if row["forms"]]
    notes: dict[str, str] = json.loads(NOTES.read_text()) if NOTES.exists() else {}
    lines = [
        "# Deployment of dense and slim models",
        "",
        f"`python benchmarks/deployment.py`: {len(rows)} timm families, two random images, random weights, 30 % of the",
        "channels gone (`prune`'s default scope). " + "; ".join(f"{form}: {what}" for form, what in FORMS.items()) + ".",
        "Figures are relative differences from eager PyTorch of the same form; **no**: it does not run. `torch.compile` is",
        "Dynamo and AOTAutograd (`aot_eager`, `fullgraph=True`); `torch.export` is of any batch, compared on two sizes (`*`:",
        "of this one batch), and ONNX Runtime and OpenVINO (float32) run files made of it; DDP and FSDP2 (`fully_shard`",
        "of each child that is called) are one process on gloo with a step of training; `int8 dynamic`: torchao's `quantize_`,",
        "`int8 static`: its PT2E for x86. These and bf16 round by design: what counts is that they run. `optimize` is",
        "`fxprune.optimize`.",
        "",
        ", ".join(f"{name} {version}" for name, version in environment.items()),
        "",
        "| Runs, and within 1e-4 | " + " | ".join(FORMS) + " |",
        "|---|" + "---|" * len(FORMS),
        *(_count(check, rows) for check in CHECKS),
        "",
        "## Differences between an original and its slim forms",
        "",
    ]
    for model, form, check in differences(rows):
        note = note_of(model, form, check, notes)
        lines.append(f"- {model}, {form}, {check}: {note or 'not looked into'}")
    lines += ["", "## All", "", f"| Model | | {' | '.join(CHECKS)} |", f"|---|---|{'---|' * len(CHECKS)}"]
    reasons: list[str] = []
    for row in rows:
        for form in FORMS:
            found = row["forms"].get(form, {})
            if not found:
                continue
            lines.append(f"| {row['model']} | {form} | {' | '.join(_cell(found.get(check)) for check in CHECKS)} |")
            whys = {check: found[check]["why"] for check in CHECKS if "why" in found.get(check, {})}
            reasons += [f"- {row['model']}, {form}, {check}: {why}" for check, why in whys.items()]
    return "\n".join([*lines, "", "## What does not run, and what it says", "", *reasons, ""])


def _count(check: str, rows: list[Row]) -> str:
    cells = []
    for form in FORMS:
        tried = [runs(check, row["forms"].get(form, {}).get(check)) for row in rows]
        cells.append(f"{sum(t is True for t in tried)} of {sum(t is not None for t in tried)}")
    return f"| {check} | {' | '.join(cells)} |"


def _cell(result: Result | None) -> str:
    if result is None:
        return ""
    if "why" in result:
        return "**no**"
    return f"{result['error']:.0e}{'*' if 'fixed' in result else ''}"
