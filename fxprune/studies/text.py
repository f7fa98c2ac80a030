"""A study as tables for people."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fxprune.studies.distribution import WeightTests
from fxprune.studies.results import Number, Overlap, Pair, Study

__all__ = ["show", "text_of"]

_ROWS = 24  # layers that a table shows; the JSON document holds all
_WIDTH = 100
_BUDGETS = {"macs": "MACs", "params": "parameters", "memory": "memory"}


def show(study: Study, console: Console) -> None:
    """Print a study; it fits into 80 columns if the layers' names do."""
    unit = {"group": "groups of coupled channels", "layer": "layers"}[study.options["unit"]]
    title = f"{study.model}: {len(study.criteria)} criteria on {len(study.units)} {unit}, {sum(study.sizes):,} channels"
    console.print(title, markup=False, highlight=False)
    for table in _tables(study):
        console.print(table)
    if len(study.weights) > _ROWS:
        console.print(f"... and {len(study.weights) - _ROWS} convolutions more: the JSON document lists all", highlight=False)
    for line in _verdicts(study.weights):
        console.print(line, markup=False, highlight=False)
    for note in study.notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)


def text_of(study: Study) -> str:
    """The same as plain text."""
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, force_terminal=False)
    show(study, console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _tables(study: Study) -> Iterator[Table]:
    ratios: list[float] = study.options["ratios"]
    ratio = min(ratios, key=lambda r: abs(r - 0.5))
    if study.pairs:
        yield _similarity(study)
        yield _overlaps(study, f"Pruned in common at ratio {ratio:g} (by chance)", ratio)
        for name, words in _BUDGETS.items():
            for kept in study.options.get(name, ()):
                yield _overlaps(study, f"In common at {_amount(kept)} {words} (by chance)", kept, name)
    yield _applicability(study, ratio)
    if study.options["noise"]:
        yield _stability(study, ratio)
    if study.weights:
        yield _weights(study.weights)


def _table(title: str, *columns: str) -> Table:
    first, *others = columns
    found = Table(first, title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in others:
        found.add_column(column, justify="right")
    return found


def _similarity(study: Study) -> Table:
    title = "Similarity: Spearman's correlation (global: as each normalises; raw: without)"
    table = _table(title, "criteria", "mean", "least", "at", "above 0.9", "global", "raw")
    for pair in study.pairs:
        table.add_row(
            escape(f"{pair.first}, {pair.second}"),
            _number(pair.mean),
            _number(pair.least),
            escape(_where(study, pair)),
            _share(pair.above()),
            _number(pair.everywhere),
            _number(pair.raw),
        )
    return table


def _overlaps(study: Study, title: str, ratio: float, budget: str = "") -> Table:
    table = _table(title, "criteria", "by layer", "global", "raw")
    for pair in study.pairs:
        cells = (_common(pair.overlap(scope, ratio, budget)) for scope in ("layer", "global", "raw"))
        table.add_row(escape(f"{pair.first}, {pair.second}"), *cells)
    return table


def _amount(kept: float) -> str:
    return f"{kept:.4g} of all" if kept < 1 else f"{kept:,.0f}"


def _where(study: Study, pair: Pair) -> str:
    """The unit of the lowest correlation."""
    return "" if pair.least is None else study.units[pair.layers.index(pair.least)].removesuffix(".weight")


def _applicability(study: Study, ratio: float) -> Table:
    title = "Applicability: variation of the scores, their middle half, the gap at the cut"
    gap = f"gap at {ratio:g}"
    table = _table(title, "criterion", "variation", "least", "most", "below 5%", "middle", gap)
    for entry in study.applicability:
        variation = [v for v in entry.variation if v is not None]
        table.add_row(
            escape(entry.criterion),
            *(_percent(f(variation)) if variation else "-" for f in (median, min, max)),
            _share(entry.flat()),
            _percent(_median(entry.middle)),
            _percent(_median(entry.margins[ratio])),
        )
    return table


def _stability(study: Study, ratio: float) -> Table:
    title = f"Stability: the same criterion with a relative error of {study.options['noise']:.1%} in every weight"
    table = _table(title, "criterion", "Spearman: mean", "least", f"pruned the same at {ratio:g}", "globally")
    for entry in study.applicability:
        noise = entry.noise
        cells = (
            ("-",) * 4
            if noise is None
            else (_number(noise.mean), _number(noise.least), *(_common(noise.overlap(s, ratio)) for s in ("layer", "global")))
        )
        table.add_row(escape(entry.criterion), *cells)
    return table


def _weights(tests: Iterable[WeightTests]) -> Table:
    title = "Weights: normal, centred, of one variance (* is not); correlated in kernels?"
    table = _table(title, "convolution", "KS", "mean/std", "spread (chance)", "r inside", "between", "chance")
    for t in list(tests)[:_ROWS]:
        b, v = t.blocks, t.variance
        table.add_row(
            escape(t.layer.removesuffix(".weight")),
            _marked(f"{t.gaussian.distance:.3f}", t.gaussian.holds),
            _marked(f"{t.mean.effect:+.3f}", t.mean.holds),
            _marked(f"{v.spread:.2f} ({v.expected_spread:.2f})", v.holds),
            *(("-",) * 3 if b is None else (f"{b.inside:.2f}", f"{b.outside:.2f}", f"{b.chance:.2f}")),
        )
    return table


def _verdicts(tests: tuple[WeightTests, ...]) -> list[str]:
    if not tests:
        return []
    with_blocks = [t for t in tests if t.blocks is not None]
    rows = [
        ("Gaussian", sum(t.gaussian.holds for t in tests), len(tests)),
        ("zero mean", sum(t.mean.holds for t in tests), len(tests)),
        ("equal variances", sum(t.variance.holds for t in tests), len(tests)),
        ("correlated inside kernels", sum(t.blocks.found for t in with_blocks if t.blocks), len(with_blocks)),
    ]
    told = ", ".join(f"{name} {count} of {of}" for name, count, of in rows if of)
    return [f"Layers whose weights are: {told} (what fails is significant and not small)"]


def _median(values: Iterable[Number]) -> Number:
    known = [v for v in values if v is not None]
    return median(known) if known else None


def _number(value: Number) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"


def _percent(value: Number) -> str:
    return "-" if value is None else f"{value:.2%}"


def _common(overlap: Overlap | None) -> str:
    return "-" if overlap is None else f"{overlap.share:.0%} ({overlap.expected:.0%})"


def _marked(text: str, holds: bool) -> str:
    return text if holds else f"{text} *"
