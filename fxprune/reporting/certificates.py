"""What was proved of a slim model, one row a proof: what it says, how large the error was, and where it was tried."""

from __future__ import annotations

from typing import Any

from fxprune.planning.report import Checks, Report

__all__ = ["certificates_of", "verdict_of"]

Row = dict[str, Any]


def verdict_of(report: Report | None) -> dict[str, str]:
    """One of ``proved``, ``failed``, ``unproved`` and ``planned``, and a sentence."""
    if report is None:
        return {"status": "planned", "text": "A plan: nothing was removed yet."}
    checks = report.checks
    if checks is None or (checks.fidelity is None and checks.masked_error is None):
        return {"status": "unproved", "text": "Not proved: the comparison was left out (verify=False)."}
    if not checks.passed:
        return {"status": "failed", "text": "A check failed: do not use this model before you know why."}
    text = "Proved: it computes what the model computes whose removed channels are zeroed."
    if after := _changed(report):
        text = f"Proved as it was cut; then its weights were {after}."
    return {"status": "proved", "text": text}


def _changed(report: Report) -> str:
    """What happened to the weights after the comparison."""
    trained = report.finetuning is not None or (report.step is not None and report.step.trained)
    repaired = report.repair is not None and not report.repair.kept
    return " and ".join([*(["repaired"] if repaired else []), *(["trained"] if trained else [])])


def certificates_of(report: Report | None) -> list[Row]:
    """``name``, ``status`` (``ok``, ``failed``, ``note`` or ``none``), ``error`` and ``limit`` or None, text, and details."""
    if report is None or report.checks is None:
        return []
    checks, found = report.checks, []
    found += _fidelity(checks)
    found.append(
        _compared(
            "Channels of a group are interchangeable",
            checks.permutation_error,
            checks.tolerance,
            "The original's output with the channels of every group permuted.",
            "Not measured here: fxprune.verify(model, slim) does.",
        )
    )
    found.append(
        _compared(
            "The slim model is the masked original",
            checks.masked_error,
            checks.tolerance,
            "The slim model beside the original whose removed channels are zero.",
            "Not measured.",
        )
    )
    if report.own_class is not None and report.own_class.errors:
        own = report.own_class
        details = [[name, _error(error)] for name, error in own.errors.items()]
        row = _compared(
            "The model's own classes compute the same",
            own.error,
            own.tolerance,
            "In each call that was compared, in both modes.",
            "",
        )
        found.append(row | {"details": details})
    if checks.statistics:
        found.append(_statistics(checks))
    if checks.flop_counter is not None:
        found.append(_counted(checks))
    return found


def _row(name: str, status: str, text: str, error: float | None = None, limit: float | None = None) -> Row:
    return {
        "name": name,
        "status": status,
        "text": text,
        "error": error,
        "error_text": "" if error is None else _error(error),
        "limit": limit,
        "limit_text": "" if limit is None else f"limit {limit:.0e}",
        "details": [],
    }


def _error(error: float) -> str:
    return "0" if error == 0 else f"{error:.1e}"


def _compared(name: str, error: float | None, limit: float, text: str, absent: str) -> Row:
    if error is None:
        return _row(name, "none", absent)
    return _row(name, "ok" if error <= limit else "failed", text, error, limit)


def _fidelity(checks: Checks) -> list[Row]:
    """That the recording is the user's own model: the first link of the chain."""
    found = checks.fidelity
    if found is None:
        return []
    count = len(found.errors)
    text = f"The recorded graph beside the model itself, in {count} call{'' if count == 1 else 's'} under one seed."
    row = _row("The recording is the model", "ok" if found.passed else "failed", text, found.error, found.tolerance)
    row["details"] = [[name, _error(error)] for name, error in found.errors.items()]
    row["details"] += [[name, f"not taken by the recording: {why}"] for name, why in found.refused.items()]
    row["details"] += [[name, f"not taken by the model: {why}"] for name, why in found.skipped.items()]
    row["details"] += [["random weights, too", why] for why in found.vacuous]
    return [row]


def _statistics(checks: Checks) -> Row:
    """Norms over channels that went."""
    count, rest = checks.statistics, checks.unreferenced
    name = "Statistics over channels have a second formula"
    if not rest:
        return _row(name, "ok", f"All {count} that lost channels were checked by it.")
    row = _row(name, "note", f"{len(rest)} of {count} that lost channels have no reference: their settings were not checked.")
    row["details"] = [[node, "no reference"] for node in rest]
    return row


def _counted(checks: Checks) -> Row:
    """MACs by PyTorch's own counter."""
    assert checks.flop_counter is not None
    before, after = checks.flop_counter
    text = f"PyTorch's counter finds {before:,} and {after:,}, the closed form {checks.macs[0]:,} and {checks.macs[1]:,}."
    return _row("MACs by torch.utils.flop_counter", "ok" if checks.flop_counter == checks.macs else "note", text)
