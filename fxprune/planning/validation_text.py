"""A validation as a table: one row a figure, one column a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from fxprune.planning.report import in_unit
from fxprune.planning.validation import Difference, Estimate, Figures, Validation

__all__ = ["text_of"]

Row = tuple[str, list[str]]


def text_of(found: Validation) -> str:
    """The table, and below it what to know of it."""
    models = (found.dense, *found.slim)
    rows = [("", [m.name for m in models])]
    for name, attribute in (("top-1", "top1"), ("top-5", "top5")):
        rows += _pair(name, models, attrgetter(attribute), _share, _points)
    rows += _pair("loss", models, lambda m: m.loss, _number, _change)
    for name in found.dense.metrics:
        rows += _pair(name, models, partial(_metric, name), _number, _change)
    rows += _row(f"calibration error, {found.bins} bins", [_plain(m.calibration, "{:.4f}") for m in models])
    rows += _row("agreement with dense", [_told(m.against and m.against.agreement, _share) for m in models])
    rows += _row("distance from dense", [_plain(None if m.against is None else m.against.distance, "{:.3g}") for m in models])
    for name, attribute in (("MACs an image", "macs"), ("parameters", "params")):
        counts, letter = in_unit([getattr(m, attribute) for m in models], 2)
        rows += _row(f"{name} ({letter})" if letter else name, _with_ratio(counts, models, attribute))
    times = [_plain(m.latency and m.latency * 1e3, "{:,.2f}") for m in models]
    rows += _row(f"ms for {found.batch} images", _with_ratio(times, models, "latency"))
    labels = "" if found.labelled else " without labels"
    head = f"{found.model}: {found.images:,} images{labels}, {found.device}; intervals of {found.confidence:.0%}"
    return "\n".join([head, *_aligned(rows), *(f"Note: {note}" for note in found.notes)])


def _metric(name: str, figures: Any) -> Any:
    return figures.metrics.get(name)


def _pair(
    name: str, models: Sequence[Figures], pick: Callable[[Any], Any], value: Callable[[Any], str], change: Callable[[Any], str]
) -> list[Row]:
    """A figure, and below it how far the slim models are from the dense one."""
    rows = _row(name, [_told(pick(m), value) for m in models])
    return rows + _row("  against dense", [_told(m.against and pick(m.against), change) for m in models])


def _row(name: str, cells: list[str]) -> list[Row]:
    """The row, unless nothing was measured."""
    return [(name, cells)] if any(cells) else []


def _told(value: Any, form: Callable[[Any], str]) -> str:
    return "" if value is None else form(value)


def _plain(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _share(e: Estimate) -> str:
    return f"{e.value:.2%}" + ("" if e.low is None or e.high is None else f" ({100 * e.low:.2f} to {100 * e.high:.2f})")


def _number(e: Estimate) -> str:
    return f"{e.value:.4f}" + ("" if e.low is None or e.high is None else f" ({e.low:.4f} to {e.high:.4f})")


def _points(d: Difference) -> str:
    interval = "" if d.low is None or d.high is None else f" ({100 * d.low:+.2f} to {100 * d.high:+.2f})"
    return f"{100 * d.value:+.2f}{interval}" + ("" if d.p is None else _likely(d.p))


def _likely(p: float) -> str:
    return f", p {p:.4f}" if p >= 1e-4 else ", p < 0.0001"


def _change(d: Difference) -> str:
    return f"{d.value:+.4f}" + ("" if d.low is None or d.high is None else f" ({d.low:+.4f} to {d.high:+.4f})")


def _with_ratio(cells: Iterable[str], models: Sequence[Figures], attribute: str) -> list[str]:
    ratios = [None if m.against is None else getattr(m.against, attribute) for m in models]
    return [cell if ratio is None else f"{cell} ({ratio:.3f} of dense)" for cell, ratio in zip(cells, ratios, strict=True)]


def _aligned(rows: list[Row]) -> list[str]:
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(rows[0][1]))]
    name_width = max(len(name) for name, _ in rows)
    lines = ([name.ljust(name_width), *(c.ljust(w) for c, w in zip(cells, widths, strict=True))] for name, cells in rows)
    return ["  ".join(line).rstrip() for line in lines]
