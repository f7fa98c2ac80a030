"""A study as pictures (needs matplotlib: ``pip install "fxprune[plot]"``).

>>> save(figures(found), "study")                 # doctest: +SKIP
>>> save({"aura": aura(aura_map(model, loader))}, "study")  # doctest: +SKIP
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fxprune.codegen.replacing import checked_path, replace
from fxprune.errors import InputError, PruneError
from fxprune.studies.results import Number, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fxprune.studies.aura_map import AuraMap
    from fxprune.studies.curves import Sensitivity

__all__ = ["FORMATS", "aura", "figures", "layers", "require", "save", "scores", "sensitivity", "similarity"]

FORMATS = ("png", "svg")
_HISTOGRAMS = 20  # layers in the picture of scores, evenly spaced
_EXAMPLES = 6  # maps of high and of low entropy
_GREY = "0.88"  # undefined


def require() -> None:
    """Make sure, before work is done, that pictures can be drawn.

    Raises:
        PruneError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PruneError('pictures need matplotlib: pip install "fxprune[plot]"') from error


def figures(study: Study) -> dict[str, Figure]:
    """All pictures of a study, by name of the file; those of similarity only where there are several criteria."""
    found = {"similarity": similarity, "layers": layers, "scores": scores} if study.pairs else {"scores": scores}
    return {name: draw(study) for name, draw in found.items()}


def save(drawn: Mapping[str, Figure], out: str | Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write figures as ``NAME.FORMAT`` into the folder `out`; the same figure gives the same bytes.

    Raises:
        InputError: a format is not one of ``png`` and ``svg``.
        PruneError: a file cannot be written.
    """
    import matplotlib

    written, folder = [], checked_path(out)
    for kind in (formats := tuple(formats)):
        if kind not in FORMATS:
            raise InputError(f"formats are {', '.join(FORMATS)}, not {kind!r}")
    for name, figure in drawn.items():
        for kind in formats:
            path = folder / f"{name}.{kind}"
            stamp = {"Date": None} if kind == "svg" else {"Software": None}
            with matplotlib.rc_context({"svg.hashsalt": "fxprune"}):
                replace([path], [functools.partial(figure.savefig, dpi=110, metadata=stamp)])
            written.append(path)
    return written


def similarity(study: Study) -> Figure:
    """Spearman's correlation between criteria: mean over layers, over all channels as ranked, and without normalisation."""
    names, side = study.criteria, max(2.6, 0.42 * len(study.criteria) + 1.6)
    figure = _figure(3 * side + 1.2, side + 0.9)
    axes = figure.subplots(1, 3, squeeze=False)[0]
    sources: list[tuple[str, Callable[[Any], Number]]] = [
        ("mean over layers", lambda p: p.mean),
        ("all channels, as each normalises", lambda p: p.everywhere),
        ("all channels, no normalisation", lambda p: p.raw),
    ]
    matrices = []
    for _, value in sources:
        matrix = np.eye(len(names))
        for pair in study.pairs:
            i, k = names.index(pair.first), names.index(pair.second)
            matrix[i, k] = matrix[k, i] = _or_nan(value(pair))
        matrices.append(matrix)
    limits = (_floor(np.array(matrices)), 1.0)
    for ax, (title, _), matrix in zip(axes, sources, matrices, strict=True):
        image = _heat(ax, matrix, title, names, names, limits)
        ax.tick_params(axis="x", rotation=45)
        _annotate(ax, matrix, limits)
    figure.colorbar(image, ax=axes, label="Spearman", shrink=0.8)
    figure.suptitle(f"{study.model}: do the criteria rank alike?")
    return figure


def layers(study: Study) -> Figure:
    """Where in the network the criteria agree, and where scores are far enough apart: by layer, in order."""
    pairs = [f"{p.first}, {p.second}" for p in study.pairs]
    height = 0.28 * (len(pairs) + len(study.criteria)) + 2.6
    figure = _figure(max(7.0, 0.16 * len(study.units) + 3.5), height)
    above, below = figure.subplots(2, 1, height_ratios=[len(pairs) + 1, len(study.criteria) + 1])
    matrix = np.array([[_or_nan(v) for v in p.layers] for p in study.pairs])
    _bar(figure, above, _heat(above, matrix, "correlation of the scores", pairs, None, (_floor(matrix), 1.0)), "Spearman")
    variation = 100 * np.array([[_or_nan(v) for v in a.variation] for a in study.applicability])
    top = float(np.nanpercentile(variation, 95)) if np.isfinite(variation).any() else 1.0
    image = _heat(below, variation, "variation of the scores in %", study.criteria, None, (0.0, top or 1.0))
    _bar(figure, below, image, "%")
    _ticks(below, study.units)
    figure.suptitle(f"{study.model}: layer by layer")
    return figure


def scores(study: Study) -> Figure:
    """Histograms of scores over their mean, layer by layer; what is narrow cannot be told apart."""
    picked = np.unique(np.linspace(0, len(study.units) - 1, min(_HISTOGRAMS, len(study.units))).round().astype(int))
    columns = min(5, len(picked))
    rows = math.ceil(len(picked) / columns)
    figure = _figure(2.5 * columns, 1.7 * rows + 1.0)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(picked) :]:
        ax.set_axis_off()
    for ax, unit in zip(axes, picked, strict=False):
        scaled = {name: _over_mean(np.array(study.scores[name][unit])) for name in study.criteria}
        spread = np.concatenate(list(scaled.values()))
        bins = np.linspace(spread.min(), max(spread.max(), spread.min() + 1e-6), 4 + min(26, study.sizes[unit] // 4))
        for number, (name, values) in enumerate(scaled.items()):
            ax.hist(values, bins=bins, histtype="step", color=f"C{number % 10}", label=name)
        ax.set_title(_short(study.units[unit]), fontsize=7)
        ax.tick_params(labelsize=6)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), fontsize=8)
    figure.suptitle(f"{study.model}: scores over their mean, by layer")
    return figure


def aura(found: AuraMap) -> Figure:
    """Spatial aura entropy, filters x layers, each layer sorted; with example maps of low and high entropy."""
    widest = max(len(e) for e in found.entropies)
    matrix = np.full((widest, len(found.sites)), np.nan)
    for column, entropies in enumerate(found.entropies):
        matrix[: len(entropies), column] = np.sort(entropies)[::-1]
    figure = _figure(max(8.0, 0.16 * len(found.sites) + 4), 8.0)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[3, 2])[:, 0]
    ax = upper.subplots()
    top = float(np.nanmax(matrix)) or 1.0
    image = _heat(ax, matrix, "filters of each layer, sorted by entropy", None, None, (0.0, top))
    upper.colorbar(image, ax=ax, label="bits", shrink=0.8)
    _ticks(ax, found.sites)
    ax.set_ylabel("filters")
    low, high = _extremes(found)
    grid = lower.subplots(2, _EXAMPLES, squeeze=False)
    for row, picked in zip(grid, (high, low), strict=True):
        for ax in row:
            ax.set_axis_off()
        for ax, (site, channel) in zip(row, picked, strict=False):
            ax.imshow(found.examples[site][channel], cmap="gray")
            bits = found.entropies[site][channel]
            number = found.channels[site][channel]
            ax.set_title(f"{_short(found.sites[site])}, {number}: {bits:.2f} bits", fontsize=7)
    lower.suptitle("maps of the first image: highest entropy above, lowest that is not constant below", fontsize=9)
    upper.suptitle(f"{found.model}: spatial aura entropy, {found.images} images, {found.levels} levels")
    return figure


def sensitivity(found: Sensitivity) -> Figure:
    """What removing shares of each group alone costs: a line a group, early ones dark; and the loss of each, after a repair if
    there is one."""
    ratios, count = found.options["ratios"], len(found.curves)
    figure = _figure(11.0, max(4.0, 0.18 * count + 1.6))
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    matrix = np.full((count, len(ratios)), np.nan)
    for number, curve in enumerate(found.curves):
        colour = (0.1 + 0.8 * number / max(count - 1, 1),) * 2 + (0.5,)
        shares = [0.0, *(p.removed / curve.size for p in curve.points)]
        values = [found.dense, *(p.value if p.repaired is None else p.repaired for p in curve.points)]
        left.plot(shares, values, color=colour, marker=".", linewidth=1, label=_short(curve.group))
        for column, ratio in enumerate(ratios):
            matrix[number, column] = np.interp(ratio, shares, [found.loss(p) if p else 0.0 for p in (None, *curve.points)])
    left.axhline(found.dense, color="0.5", linewidth=0.8, linestyle=":")
    left.set_xlabel("share of the group's channels that go")
    left.set_ylabel(f"evaluate ({found.options['better']} is better)")
    top = float(np.nanmax(np.abs(matrix))) or 1.0
    names = [_short(curve.group) for curve in found.curves]
    image = _heat(right, matrix, "loss", names, [f"{ratio:.0%}" for ratio in ratios], (0.0, top))
    _bar(figure, right, image, "loss")
    repaired = ", after a repair" if found.options["repair"] else ""
    figure.suptitle(f"{found.model}: how much of each group may go{repaired}")
    return figure


def _extremes(found: AuraMap) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Channels (site, number) of the lowest and the highest entropy, from different layers, whose example maps vary."""
    best: list[tuple[float, int, int]] = []
    worst: list[tuple[float, int, int]] = []
    for site, (entropies, maps) in enumerate(zip(found.entropies, found.examples, strict=True)):
        if maps.shape[-1] < 4:
            continue  # nothing to see
        alive = [c for c in range(len(entropies)) if np.ptp(maps[c]) > 0 and entropies[c] > 0]
        if alive:
            order = sorted(alive, key=lambda c: float(entropies[c]))
            worst.append((float(entropies[order[0]]), site, order[0]))
            best.append((float(entropies[order[-1]]), site, order[-1]))
    return ([(s, c) for _, s, c in sorted(worst)[:_EXAMPLES]], [(s, c) for _, s, c in sorted(best, reverse=True)[:_EXAMPLES]])


# -- drawing -------------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=(min(width, 30), min(height, 30)), layout="constrained")


def _heat(
    ax: Axes,
    matrix: np.ndarray,
    title: str,
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    limits: tuple[float, float],
) -> Any:
    ax.set_facecolor(_GREY)
    image = ax.imshow(matrix, vmin=limits[0], vmax=limits[1], cmap="viridis", aspect="auto", interpolation="nearest")
    ax.set_title(title, fontsize=9)
    ax.tick_params(labelsize=7)
    ax.set_xticks(range(len(columns or ())), columns)
    if rows is not None:
        ax.set_yticks(range(len(rows)), rows)
    return image


def _bar(figure: Figure, ax: Axes, image: Any, label: str) -> None:
    figure.colorbar(image, ax=ax, label=label, pad=0.01)


def _floor(values: np.ndarray) -> float:
    """Where the colours of correlations begin: a step of 0.1 below the least, so that high ones can be told apart."""
    least = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
    return min(0.9, max(-1.0, math.floor(10 * least) / 10))


def _annotate(ax: Axes, matrix: np.ndarray, limits: tuple[float, float]) -> None:
    middle = sum(limits) / 2
    for (i, k), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            colour = "black" if value > middle else "white"
            ax.text(k, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)


def _ticks(ax: Axes, names: Sequence[str]) -> None:
    """Names below the columns; some, where there are many."""
    step = math.ceil(len(names) / 60)
    ax.set_xticks(range(0, len(names), step), [_short(n) for n in names[::step]], rotation=90, fontsize=6)


def _over_mean(scores: np.ndarray) -> np.ndarray:
    scale = abs(float(scores.mean()))
    return scores / scale if scale else scores


def _short(name: str) -> str:
    name = name.removesuffix(".weight")
    return name if len(name) <= 28 else f"...{name[-25:]}"


def _or_nan(value: Number) -> float:
    return math.nan if value is None else value
