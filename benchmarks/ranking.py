"""One ranking of all channels: how the scores of a channel's layers become one, and how those of groups are made comparable.

    python benchmarks/ranking.py --data FOLDER --weights resnet20.safetensors vgg16bn.safetensors

Accuracy before any fine-tuning for each criterion x reduction x normalisation, at equal MACs. The first half of the test images
is for choosing, the second for what is said of the choice. FOLDER is that of `criteria.py`. Results are appended to
``ranking.jsonl`` as they come, and what is there is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from criteria_accuracy import EXAMPLE, Gone, accuracy, gone_for, slim_for
from criteria_data import Batches, Cifar, batches, load_network
from measure import environment
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.analysis.analysis import Analysis
from fxprune.criteria.base import Reduction, normalize
from fxprune.options import Normalization
from fxprune.state import named_tensors

__all__ = ["main", "measured", "table"]

CRITERIA = ["l2", "taylor", "fpgm", "aura_entropy", "operator_norm", "wanda"]
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, write ``ranking.json`` and ``ranking.md``."""
    options = _options(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "ranking.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    data = Cifar(options.data)
    calibration = batches(*data("train", options.calibration))
    images, labels = data("test", options.test)
    half = options.test // 2
    halves = batches(images[:half], labels[:half]), batches(images[half:], labels[half:])
    for file in options.weights:
        network, model = load_network(file)
        shared = {"network": network, "images": options.calibration, "test": options.test}
        for name, seed, reduction in _wanted(options):
            head = {**shared, "criterion": name, "seed": seed, "reduction": reduction}
            done = {(r["normalization"], r["cut"]) for r in rows if head.items() <= r.items()}
            cells = [(n, c) for n in options.normalizations for c in options.cuts if (n, c) not in done]
            for row in measured(model, head, calibration, halves, cells) if cells else []:
                rows.append(row)
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    (options.out / "ranking.json").write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    (options.out / "ranking.md").write_text("\n".join(table(rows)))
    print(f"wrote {options.out / 'ranking.md'}")


def measured(
    model: nn.Module, head: Row, calibration: Batches, halves: tuple[Batches, Batches], cells: list[tuple[Normalization, float]]
) -> Iterator[Row]:
    """A row for each normalisation and cut; what removes the same channels has the same accuracy."""
    analysis = fxprune.analyze(model, torch.zeros(EXAMPLE))
    raw = _raw(model, analysis, head, calibration)
    known: dict[str, Row] = {}
    for how, cut in cells:
        gone = gone_for(analysis, {name: normalize(s, how) for name, s in raw.items()}, cut)
        key = _key(gone)
        if key not in known:
            slim, fewer = slim_for(model, analysis, gone)
            known[key] = {"chosen_on": accuracy(slim, halves[0]), "reported_on": accuracy(slim, halves[1]), **fewer}
        yield {**head, "normalization": how, "cut": cut, **known[key]}


def _raw(model: nn.Module, analysis: Analysis, head: Row, calibration: Batches) -> dict[str, Tensor]:
    """Scores of each group by one criterion and reduction, without normalisation."""
    made: Any = criteria.resolve(head["criterion"], seed=head["seed"])
    made = copy.copy(made)
    made.reduction, made.normalization = head["reduction"], "none"
    criteria.prepare(made, model, analysis, calibration if made.needs_data else None)
    tensors = named_tensors(model)
    with torch.no_grad():
        return {group.id: made(group, tensors).double() for group in analysis.free}


def _key(gone: Gone) -> str:
    return json.dumps({name: channels.tolist() for name, channels in sorted(gone.items())})


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown: a table a network and cut, then what choosing on one half gives on the other."""
    yield "# One ranking of all channels\n"
    yield (
        "Accuracy in per cent, before any fine-tuning, of CIFAR-10 (JPEG q75) networks after a global ranking took the same "
        "share of the MACs; mean over seeds where there are several. A row: a criterion, and the reduction over layers.\n"
    )
    normalizations = list(dict.fromkeys(r["normalization"] for r in rows))
    for network, cut in dict.fromkeys((r["network"], r["cut"]) for r in rows):
        own = [r for r in rows if (r["network"], r["cut"]) == (network, cut)]
        seen = f"{own[0]['test']} test images, {own[0]['images']} training images for the criteria that observe"
        yield f"## {network}, {cut:.0%} fewer MACs\n\n{seen}.\n"
        lines = [["criterion", "reduction", *normalizations, "chosen on one half", "on the other"]]
        for name in dict.fromkeys(r["criterion"] for r in own):
            mine = [r for r in own if r["criterion"] == name]
            for number, reduction in enumerate(dict.fromkeys(r["reduction"] for r in mine)):
                cells = [
                    _mean([r for r in mine if (r["reduction"], r["normalization"]) == (reduction, n)]) for n in normalizations
                ]
                lines.append([name, reduction, *cells, *(_chosen(mine) if number == 0 else ("", ""))])
        yield "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]]) + "\n"


def _mean(rows: list[Row]) -> str:
    found = [(r["chosen_on"] + r["reported_on"]) / 2 for r in rows]
    return f"{100 * sum(found) / len(found):.2f}" if found else ""


def _chosen(rows: list[Row]) -> tuple[str, str]:
    """Of one criterion, what is best on the first half, and its accuracy on the second."""
    kinds: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        kinds.setdefault((row["reduction"], row["normalization"]), []).append(row)
    best = max(kinds, key=lambda kind: sum(r["chosen_on"] for r in kinds[kind]) / len(kinds[kind]))
    found = [r["reported_on"] for r in kinds[best]]
    return " ".join(best), f"{100 * sum(found) / len(found):.2f}"


def _wanted(options: argparse.Namespace) -> Iterable[tuple[str, int, str]]:
    for name in options.criteria:
        for seed in range(options.seeds if name == "random" else 1):
            for reduction in options.reductions:
                yield name, seed, reduction


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="CIFAR-10 as JPEG: see criteria.py")
    parser.add_argument("--weights", nargs="+", type=Path, required=True, metavar="FILE", help="safetensors")
    parser.add_argument("--criteria", nargs="+", default=CRITERIA, choices=criteria.names(), metavar="NAME")
    parser.add_argument("--reductions", nargs="+", default=["mean", "rank"], choices=get_args(Reduction))
    parser.add_argument("--normalizations", nargs="+", default=[*get_args(Normalization)], choices=get_args(Normalization))
    parser.add_argument("--cuts", nargs="+", type=float, default=[0.3, 0.5], help="shares of the MACs to remove")
    parser.add_argument("--seeds", type=int, default=5, help="of random")
    parser.add_argument("--calibration", type=int, default=640, help="training images that criteria see")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
