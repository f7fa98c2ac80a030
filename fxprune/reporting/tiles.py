"""The figures at the top of a report: accuracy, MACs, parameters, memory, latency and channels, before and after."""

from __future__ import annotations

from typing import Any

from fxprune.planning.plan import Plan
from fxprune.planning.report import Report, in_unit
from fxprune.planning.validation import Validation

__all__ = ["bytes_of", "change_of", "percent", "tiles_of"]

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_MINUS = "\N{MINUS SIGN}"
_METRICS = 2  # of the user's own that get a tile
Tile = dict[str, Any]


def tiles_of(plan: Plan, report: Report | None, validation: Validation | None) -> list[Tile]:
    """One a figure that is known: ``name``, ``before``, ``after``, both as text, the change in words, and a note on it.

    ``share`` is after over before, for a bar; None of figures that are no amounts. ``good`` says whether the change is one for
    the better (True), or is a loss that is shown as it is (False).
    """
    found = _accuracy(validation)
    for name, counts, digits, note in (
        ("MACs", plan.macs, 2, "multiply-accumulates of one sample"),
        ("Parameters", plan.params, 2, "shared ones counted once"),
    ):
        shown, letter = in_unit(counts, digits)
        found.append(_tile(name, counts, [f"{text} {letter}".strip() for text in shown], note))
    if (memory := _memory(plan, report)) is not None:
        found.append(_tile("Peak memory", memory, bytes_of(memory), "activations of one sample at the fullest moment"))
    found += _latency(report, validation)
    free = [group for group in plan.groups if group.status == "free"]
    channels = (sum(group.size for group in free), sum(len(group.kept) for group in free))
    if channels[0]:
        found.append(_tile("Channels", channels, [f"{count:,}" for count in channels], "of the groups that may be pruned"))
    return found


def _tile(name: str, values: tuple[float, float], texts: list[str], note: str) -> Tile:
    before, after = values
    share = after / before if before else None
    change = "" if share is None else change_of(share)
    good = share is None or share <= 1
    return {
        "name": name,
        "before": before,
        "after": after,
        "before_text": texts[0],
        "after_text": texts[1],
        "change": change,
        "share": share,
        "good": good,
        "note": note,
    }


def change_of(share: float) -> str:
    """After over before, in words.

    >>> change_of(0.4561), change_of(1.0), change_of(1.25), change_of(0.9999)
    ('54.4 % less', 'unchanged', '25.0 % more', '0.01 % less')
    """
    if share == 1:
        return "unchanged"
    return f"{percent(abs(1 - share))} {'less' if share < 1 else 'more'}"


def percent(share: float) -> str:
    """
    >>> percent(0.5), percent(0.00012), percent(0.9996), percent(1.0)
    ('50.0 %', '0.01 %', '99.96 %', '100 %')
    """
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    digits = 2 if share < 0.001 or 0.999 < share < 1 else 1
    return f"{100 * share:.{digits}f} %"


def bytes_of(counts: tuple[float, float]) -> list[str]:
    """Bytes as text, in the unit of the smaller.

    >>> bytes_of((19_267_584, 1_980_384))
    ['19.27 MB', '1.98 MB']
    >>> bytes_of((640, 320))
    ['640 B', '320 B']
    """
    least = min((count for count in counts if count), default=0)
    for size, unit in _BYTES:
        if least >= size:
            return [f"{count / size:,.2f} {unit}" for count in counts]
    return [f"{count:,.0f} B" for count in counts]


def _memory(plan: Plan, report: Report | None) -> tuple[int, int] | None:
    """As the report has it; of a plan alone, where it has a budget."""
    if report is not None and report.memory is not None:
        return report.memory
    budgets = [] if plan.account is None else plan.account.budgets
    return next(((budget.before, budget.after) for budget in budgets if budget.name == "memory"), None)


def _latency(report: Report | None, validation: Validation | None) -> list[Tile]:
    """Measured, by whoever did it last: `validate`, `prune` with a table of latencies, or `verify`."""
    if validation is not None and len(validation.slim) == 1:
        dense, slim = validation.dense.latency, validation.slim[0].latency
        if dense is not None and slim is not None:
            return [_timed((dense, slim), f"median, batch of {validation.batch}, {validation.device}")]
    if report is not None and (found := report.latency) is not None:
        ran = f"{found.engine}, {found.device}, {found.threads} thread{'s' if found.threads > 1 else ''}"
        first, second = _milliseconds(found.predicted)
        return [_timed(found.measured, f"measured, {ran}; predicted {first} to {second}")]
    if report is not None and report.checks is not None and report.checks.latency is not None:
        return [_timed(report.checks.latency, "median of one forward of the example inputs")]
    return []


def _timed(seconds: tuple[float, float], note: str) -> Tile:
    return _tile("Latency", seconds, _milliseconds(seconds), note)


def _milliseconds(seconds: tuple[float, float]) -> list[str]:
    return [f"{value * 1e3:,.2f} ms" for value in seconds]


def _accuracy(validation: Validation | None) -> list[Tile]:
    """Accuracy, with the difference on the same images and its interval, or else the agreement; the user's metrics."""
    if validation is None or len(validation.slim) != 1:
        return []
    dense, slim = validation.dense, validation.slim[0]
    images, against, found = f"{validation.images:,} images", slim.against, []
    if dense.top1 is not None and slim.top1 is not None:
        apart = slim.top1.value - dense.top1.value
        tile = _tile("Accuracy", (dense.top1.value, slim.top1.value), [percent(dense.top1.value), percent(slim.top1.value)], "")
        change = f"{100 * apart:+.2f} points".replace("-", _MINUS) if apart else "unchanged"
        interval = None if against is None else against.top1
        note = f"top-1 on {images}"
        if interval is not None and interval.low is not None and interval.high is not None:
            bounds = f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}".replace("-", _MINUS)
            note += f"; difference {bounds} ({validation.confidence:.0%} interval)"
        found.append(tile | {"change": change, "share": None, "good": apart >= 0, "note": note})
    elif against is not None and against.agreement is not None:
        value = against.agreement.value
        tile = _tile(
            "Same answer", (1.0, value), ["100 %", percent(value)], f"as the dense model's, on {images} without labels"
        )
        found.append(tile | {"change": "", "share": None})
    for name in [name for name in dense.metrics if name in slim.metrics][:_METRICS]:
        values = (dense.metrics[name].value, slim.metrics[name].value)
        tile = _tile(name, values, [f"{value:.4g}" for value in values], f"metric on {images}")
        change = f"{values[1] - values[0]:+.3g}".replace("-", _MINUS)
        found.append(tile | {"change": change, "share": None, "good": True})
    return found
