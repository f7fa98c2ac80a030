"""Results of the accuracy benchmark as a Markdown table, and as a plot of accuracy against MACs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fxprune.recovery.repair.ranked import default_criterion

__all__ = ["behind", "drawn", "table"]

Row = dict[str, Any]
_NAMES = {"none": "pruned", "norms": "norms recalibrated", "full": "repaired", "tried": "plans tried, repaired"}


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown: a table a network and length of training, and where Torch-Pruning is ahead of fxprune's default."""
    yield "# Accuracy against computation\n"
    yield (
        "CIFAR-10 (JPEG q75), per cent of the test images. fxprune and Torch-Pruning (TP) take the same share of the MACs, as "
        "nearly as bisection on the ratio finds it, in one ranking of all channels, or a preset's ratios by layer. *pruned*: "
        "as the tool leaves it. *norms recalibrated*: new statistics in the batch norms. *repaired*: after `fxprune.repair`, "
        "Torch-Pruning's result too, from the same unlabelled training images. *plans tried, repaired*: `fxprune.prune` under "
        "a budget with a repair, which chooses among plans by those images. *MACs*, *params*: what went. Where there are "
        "several seeds: mean, standard deviation, and how many. A standard error of an accuracy of 90% on 10,000 images is 0.3 "
        "points, on 2,000 it is 0.7. Torch-Pruning's taylor and hessian see the labels of those images, and option A is "
        "written as a constant convolution for it.\n"
    )
    for network, test in sorted({(r["network"], r["test"]) for r in rows}):
        own = [r for r in rows if (r["network"], r["test"]) == (network, test)]
        dense = next((f", dense {_percent(r['accuracy'])}%" for r in own if r["tool"] == "dense"), "")
        own = [r for r in own if r["tool"] != "dense"]
        for kind in sorted({_training(r) for r in own}):
            mine = [r for r in own if _training(r) == kind]
            yield f"## {network}{dense}: {_trained(kind)}\n"
            yield f"{test:,} test images, {mine[0]['images']} unlabelled training images.\n"
            yield from _by_target(mine)
    lost = list(behind(rows))
    yield f"## Where Torch-Pruning is ahead of fxprune's default ({_ours('none')}; repaired: {_ours('full')})\n"
    yield "\n".join(f"- {line}" for line in lost) + "\n" if lost else "Nowhere.\n"


def _training(row: Row) -> tuple[int, int, float]:
    return row["epochs"], row.get("train", 0), row.get("lr", 0.0)


def _trained(kind: tuple[int, int, float]) -> str:
    epochs, train, lr = kind
    return f"after {epochs} epochs of {train:,} images, learning rate {lr:g}" if epochs else "before any training"


def _by_target(rows: list[Row]) -> Iterator[str]:
    repairs = [name for name in _NAMES if any(r["repair"] == name for r in rows)]
    lines = [["cut", "tool", "ranked by", "MACs", "params", *(_NAMES[r] for r in repairs)]]
    for target in sorted({r["target"] for r in rows}):
        kinds = dict.fromkeys((r["tool"], r["criterion"]) for r in rows if r["target"] == target)
        for tool, name in sorted(kinds, key=lambda kind: kind[0] != "fxprune"):
            mine = [r for r in rows if (r["target"], r["tool"], r["criterion"]) == (target, tool, name)]
            gone = [f"-{mean(r[what] for r in mine):.1%}" for what in ("macs", "params")]
            cells = [_spread([r["accuracy"] for r in mine if r["repair"] == repair]) for repair in repairs]
            lines.append([_cut(target), "TP" if tool == "torch-pruning" else tool, name, *gone, *cells])
    body = [lines[0], ["---"] * 3 + ["---:"] * (len(lines[0]) - 3), *lines[1:]]
    yield "\n".join("| " + " | ".join(line) + " |" for line in body) + "\n"


def _cut(target: str) -> str:
    return f"-{float(target):.0%}" if target.replace(".", "").isdecimal() else target


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {100 * stdev(values):.2f} ({len(values)})" if len(values) > 1 else ""
    return f"{_percent(mean(values))}{spread}"


def behind(rows: Iterable[Row]) -> Iterator[str]:
    """A line for each importance of Torch-Pruning that is ahead of fxprune's default after the same repair and training."""
    cells: dict[tuple[Any, ...], dict[tuple[str, str], list[float]]] = {}
    for row in rows:
        if row["tool"] != "dense":
            place = (row["network"], row["test"], row["target"], row["repair"], *_training(row))
            cells.setdefault(place, {}).setdefault((row["tool"], row["criterion"]), []).append(row["accuracy"])
    for (network, test, target, repair, *kind), found in cells.items():
        ours = next((n for n in (_ours(repair), "l2") if ("fxprune", n) in found), None)  # l2: where the default was not run
        if ours is None:
            continue
        own = mean(found["fxprune", ours])
        trained = _trained((kind[0], kind[1], kind[2]))
        for (tool, name), values in found.items():
            if tool == "torch-pruning" and mean(values) > own:
                ahead = f"{name} {_spread(values)} against {_percent(own)} by {ours}"
                yield f"{network}, {_cut(target)}, {_NAMES[repair]}, {trained}, {test:,} test images: {ahead}"


def _ours(repair: str) -> str:
    """The default criterion, which Torch-Pruning's importances are held against."""
    return default_criterion(repaired=repair == "full")


def drawn(rows: list[Row], file: Path) -> None:
    """Accuracy against the share of MACs that is kept: a panel a network and training, presets as crosses (diamonds: repaired).
    Nothing where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return
    from matplotlib.figure import Figure

    panels: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["tool"] != "dense":
            panels.setdefault((row["network"], row["test"], *_training(row)), []).append(row)
    if not panels:
        return
    with matplotlib.rc_context({"svg.hashsalt": "fxprune", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(4.6 * len(panels), 4.2), layout="constrained")
        for number, ((network, test, *kind), own) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(1, len(panels), number)
            dense = [r["accuracy"] for r in rows if r["tool"] == "dense" and (r["network"], r["test"]) == (network, test)]
            _panel(axes, own, dense)
            axes.set_title(f"{network}, {_trained((kind[0], kind[1], kind[2]))}")
        figure.savefig(file, metadata={"Date": None})


def _panel(axes: Any, rows: list[Row], dense: list[float]) -> None:
    if dense:
        axes.axhline(100 * dense[0], color="0.6", linewidth=0.8, label="dense")
    kinds = dict.fromkeys((r["tool"], r["criterion"]) for r in rows)
    theirs = [name for tool, name in kinds if tool != "fxprune"]
    for tool, name in kinds:
        own = tool == "fxprune"
        ours = {"l2": "C3", "surgeon": "k"}.get(name, "C1")
        color = ours if own else f"C{(0, 2, 4, 5, 6, 7, 8, 9)[theirs.index(name) % 8]}"
        for repair, style in (("none", ":"), ("full", "-")):
            mine = [r for r in rows if (r["tool"], r["criterion"], r["repair"]) == (tool, name, repair)]
            curve = [(100.0, 100 * dense[0])] if dense else []
            for target in dict.fromkeys(r["target"] for r in mine):
                there = [r for r in mine if r["target"] == target]
                point = (100 - 100 * mean(r["macs"] for r in there), 100 * mean(r["accuracy"] for r in there))
                if target[0].isdecimal():
                    curve.append(point)
                else:  # a preset cuts in another way: it is no point of the curve
                    axes.plot(*point, "x" if repair == "none" else "D", color=color, ms=5)
            if mine:
                label = f"{'fxprune' if own else 'TP'} {name}{', repaired' if repair == 'full' else ''}"
                width = 2.0 if own else 1.0
                axes.plot(*zip(*sorted(curve), strict=True), style, marker="o", ms=3, color=color, lw=width, label=label)
    axes.set_xlabel("MACs kept, per cent")
    axes.set_ylabel("accuracy, per cent")
    axes.legend(fontsize=5, ncols=2)
