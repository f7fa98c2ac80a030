"""Results of the criteria benchmark as JSON and as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from measure import environment

__all__ = ["claims", "write_tables"]

Row = dict[str, Any]
IMAGES = 640  # at which passive and active criteria are compared
ACTIVE, PASSIVE = ("hrank", "nuclear"), "operator_norm"


def write_tables(rows: list[Row], out: Path) -> None:
    """Write ``criteria.json`` and ``criteria.md``."""
    about = environment()
    document = {"environment": about, "claims": claims(rows), "rows": rows}
    (out / "criteria.json").write_text(json.dumps(document, indent=1) + "\n")
    machine = ", ".join(f"{k} {v}" for k, v in about.items())
    parts = [f"# Criteria\n\n{machine}\n", *_cost(rows), *_accuracy(rows), *_stability(rows)]
    (out / "criteria.md").write_text("\n".join(parts))


def claims(rows: list[Row]) -> list[Row]:
    """How many times faster one criterion is than another, on the same network: ``more`` where the slow one was stopped."""
    cost = {(r["network"], r["criterion"], r["images"]): r for r in rows if r["part"] == "cost"}
    most = max((images for _, _, images in cost), default=0)
    pairs = [((PASSIVE, 0), (name, min(IMAGES, most))) for name in ACTIVE] + [(("aura_mi", most), ("hrel", most))]
    found = []
    for network in dict.fromkeys(network for network, _, _ in cost):
        for (fast, few), (slow, many) in pairs:
            quick, long = cost.get((network, fast, few)), cost.get((network, slow, many))
            if quick and long and "seconds" in quick and ("seconds" in long or "limit" in long):
                times = (long.get("seconds") or long["limit"]) / max(quick["seconds"], 1e-4)
                found.append(
                    {
                        "network": network,
                        "fast": fast,
                        "slow": slow,
                        "images": many,
                        "times": round(times, 2),
                        "more": "seconds" not in long,
                    }
                )
    return found


def _cost(rows: list[Row]) -> Iterable[str]:
    found = [r for r in rows if r["part"] == "cost"]
    if not found:
        return
    yield "## Seconds to score a network\n"
    yield (
        "Processor time on one thread, forward passes included, tracing not; random weights, batches of 100 random images "
        "(vgg16bn 32 x 32, resnet50 64 x 64, vggish 96 x 64, dcase21 40 x 500). Criteria that read weights alone have one "
        "figure. What fewer images took too long for was not tried on more; an empty cell was not measured.\n"
    )
    networks = list(dict.fromkeys(r["network"] for r in found))
    counts = sorted({r["images"] for r in found if r["images"]})
    cells = {(r["network"], r["criterion"], r["images"]): _seconds(r) for r in found}
    head = ["criterion", *(f"{network}: {count}" for network in networks for count in counts)]
    body = []
    for name in sorted({r["criterion"] for r in found}):
        line = [name]
        for network in networks:
            passive = cells.get((network, name, 0))
            line += [passive, *("" for _ in counts[1:])] if passive else [cells.get((network, name, n), "") for n in counts]
        body.append(line)
    yield from _table(head, body)
    yield "### Times faster\n"
    yield from _table(
        ["network", "fast", "slow", "images", "times"],
        [
            [c["network"], c["fast"], c["slow"], str(c["images"]), f"{'over ' if c['more'] else ''}{_short(c['times'])}"]
            for c in claims(rows)
        ],
    )


def _seconds(row: Row) -> str:
    return f"{row['seconds']:.3g}" if "seconds" in row else str(row["error"])


def _short(times: float) -> str:
    return f"{times:,.0f}" if times >= 100 else f"{times:.3g}"


def _accuracy(rows: list[Row]) -> Iterable[str]:
    found = [r for r in rows if r["part"] == "accuracy"]
    for network in dict.fromkeys(r["network"] for r in found):
        own = [r for r in found if r["network"] == network]
        dense = next((r["accuracy"] for r in own if r["criterion"] == "none" and "accuracy" in r), None)
        yield f"## {network}: accuracy before fine-tuning, CIFAR-10 (JPEG q75)\n"
        text = "" if dense is None else f"Dense: {dense:.2%}. "
        yield (
            f"{text}{own[0]['test']} test images; criteria that need data see {own[0]['images']} training images. In each "
            "column the same share of the MACs is gone, as nearly as bisection finds it: by layer (each gives up the same "
            "ratio) or globally (one ranking of all channels).\n"
        )
        columns = list(dict.fromkeys((r["scope"], r["cut"]) for r in own if r.get("scope")))
        head = ["criterion", *(f"{scope}, {cut:.0%} fewer MACs" for scope, cut in columns)]
        body = []
        for name in sorted({r["criterion"] for r in own} - {"none"}):
            mine = [r for r in own if r["criterion"] == name]
            cells = {(r["scope"], r["cut"]): f"{r['accuracy']:.2%}" for r in mine if "accuracy" in r}
            error = next((r["error"] for r in mine if "error" in r), "")
            body.append([name, *(cells.get(c, error) for c in columns)])
        yield from _table(head, body)


def _stability(rows: list[Row]) -> Iterable[str]:
    found = [r for r in rows if r["part"] == "stability"]
    for network in dict.fromkeys(r["network"] for r in found):
        own = [r for r in found if r["network"] == network]
        yield f"## {network}: stability of the ranking, CIFAR-10 (JPEG q75)\n"
        yield (
            f"Spearman's rank correlation of a layer's channels, mean over layers (least in brackets), on {own[0]['images']} "
            "training images; noise in standard deviations of the normalised images.\n"
        )
        columns = list(dict.fromkeys(r["between"] for r in own if "between" in r))
        body = []
        for name in dict.fromkeys(r["criterion"] for r in own):
            mine = [r for r in own if r["criterion"] == name]
            cells = {r["between"]: f"{r['mean']:.3f} ({r['least']:.2f})" for r in mine if "mean" in r}
            error = next((r["error"] for r in mine if "error" in r), "")
            body.append([name, *(cells.get(c, error) for c in columns)])
        yield from _table(["criterion", *columns], body)


def _table(head: list[str], body: list[list[str]]) -> Iterable[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    yield "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)]) + "\n"
