"""The pipelines' rows as Markdown, and what must hold of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

__all__ = ["against_random", "pairs", "table"]

Row = dict[str, Any]
_TITLES = {
    "sfm": "SFM: score, preset, DO-Conv, fold (CIFAR-10, JPEG q75)",
    "early": "SFM: scored early or late (CIFAR-10, JPEG q75)",
    "aura": "Spatial aura entropy and mutual information (CIFAR-10, JPEG q75)",
    "audio": "Passive filter pruning: sounds made here, ten kinds",
}
_COLUMNS = {"none": "not trained", "plain": "plain", "do_conv": "DO-Conv"}


def table(rows: list[Row]) -> Iterator[str]:
    """A section a pipeline, a table a network, what it was measured with, and a preset."""
    yield "# Pipelines, as papers order them\n"
    yield "Accuracy in per cent on images or sounds that nothing was chosen on; ± is the deviation over seeds, in brackets.\n"
    for part in [part for part in _TITLES if any(r["pipeline"] == part for r in rows)]:
        yield f"## {_TITLES[part]}\n"
        own = [r for r in rows if r["pipeline"] == part]
        for network, seen in dict.fromkeys((r["network"], _seen(r)) for r in own):
            mine = [r for r in own if (r["network"], _seen(r)) == (network, seen)]
            dense = [r["accuracy"] for r in mine if not r["criterion"]]
            for preset in dict.fromkeys(r["preset"] for r in mine if r["criterion"]):
                yield from _section(network, preset, dense, [r for r in mine if r["criterion"] and r["preset"] == preset])
    held = [*against_random(rows)]
    if held:
        yield "## `aura_mi` above the mean of `random` by two of its deviations\n"
        yield from _lines([["network", "preset", "repair", "aura_mi", "random", "dense", "holds"], *held])


def _section(network: str, preset: str, dense: list[float], rows: list[Row]) -> Iterator[str]:
    first = next((r for r in rows if "macs" in r), None)
    if first is None:
        return
    yield f"### {network}, {preset}\n"
    seen = f"{first['test']} test images"
    if first["clips"]:
        seen = f"{first['clips']} sounds to train ({first['dense_epochs']} epochs), {first['test']} others to test"
    yield (
        f"{first['macs']:.2%} fewer MACs, {first['params']:.2%} fewer parameters; dense {_spread(dense)} %. {seen}; "
        f"{first['images']} images or sounds for criteria and repairs.\n"
    )
    trained = next((r for r in rows if r["epochs"] and r["training"] in ("plain", "do_conv")), None)
    if trained is not None:
        few = f"{trained['epochs']} epochs of {trained['train']} images, learning rate {trained['lr']}, SGD"
        if trained["clips"]:
            few = f"{trained['epochs']} epochs of the same sounds, a tenth of the learning rate, AdamW"
        yield f"Fine-tuning: {few}, {trained['precision']}, cosine.\n"
    names = [name for name in _COLUMNS if any(r["training"] == name for r in rows)]
    lines = [["criterion", "scored", "repair", *(_COLUMNS[name] for name in names)]]
    for key in dict.fromkeys((r["criterion"], r["when"], r["repair"]) for r in rows if r["training"]):
        cells = []
        for name in names:
            found = [r for r in rows if (r["criterion"], r["when"], r["repair"], r["training"]) == (*key, name)]
            cells.append(_spread([r["accuracy"] for r in found]))
        lines.append([*key, *cells])
    yield from _lines(lines)
    correlated = [r["spearman"] for r in rows if "spearman" in r]
    if correlated:
        yield f"Spearman's correlation of the early and the late scores: {_number(correlated, 1):} ({len(correlated)}).\n"
    for repair, found in pairs(rows):
        yield f"DO-Conv less plain, seed by seed, repair {repair}: {_spread(found)} points.\n"


def pairs(rows: list[Row]) -> Iterator[tuple[str, list[float]]]:
    """Of each repair, by how much DO-Conv's accuracy is above that of the plain training with the same seed."""
    for repair in dict.fromkeys(r["repair"] for r in rows):
        by = {(r["training"], r["seed"]): r["accuracy"] for r in rows if r["repair"] == repair and "accuracy" in r}
        found = [value - by["plain", seed] for (name, seed), value in by.items() if name == "do_conv" and ("plain", seed) in by]
        if found:
            yield repair, found


def against_random(rows: list[Row]) -> Iterator[list[str]]:
    """A line for each cut that `aura_mi` and several seeds of `random` made, without training, on the same images."""
    plain = [r for r in rows if r["training"] == "none" and r["when"] == "late"]
    for key in dict.fromkeys((r["network"], r["preset"], r["repair"], _seen(r)) for r in plain):
        own = [r for r in plain if (r["network"], r["preset"], r["repair"], _seen(r)) == key]
        found = [r["accuracy"] for r in own if r["criterion"] == "aura_mi"]
        drawn = [r["accuracy"] for r in own if r["criterion"] == "random"]
        if found and len(drawn) > 1:
            whole = [r["accuracy"] for r in rows if not r["criterion"] and (r["network"], _seen(r)) == (key[0], key[3])]
            yield [*key[:3], _spread(found), _spread(drawn), _spread(whole[:1]), _verdict(found[0], drawn, whole)]


def _seen(row: Row) -> tuple[Any, ...]:
    """The images or sounds that a row was measured with."""
    return tuple(row.get(name) for name in ("images", "test", "clips", "dense_epochs"))


def _verdict(found: float, drawn: list[float], dense: list[float]) -> str:
    """Whether it holds; where it does not, whether it could."""
    mean, deviation = _moments(drawn)
    most = mean + 2 * deviation
    if found > most:
        return "yes"
    if deviation == 0 and found == mean:
        return "**no**: all guess alike"
    return "**no**, nor could the dense network" if dense and dense[0] <= most else "**no**"


def _moments(values: list[float]) -> tuple[float, float]:
    """Mean and deviation of a sample."""
    mean = sum(values) / len(values)
    squares = sum((v - mean) ** 2 for v in values)
    return mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else 0.0


def _number(values: list[float], unit: float) -> str:
    mean, deviation = _moments(values)
    return f"{unit * mean:.2f} ± {unit * deviation:.2f}" if len(values) > 1 else f"{unit * mean:.2f}"


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    return _number(values, 100) + (f" ({len(values)})" if len(values) > 1 else "")


def _lines(lines: list[list[str]]) -> Iterator[str]:
    yield "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]]) + "\n"
