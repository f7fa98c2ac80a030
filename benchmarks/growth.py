"""How the time of ``fxprune.prune(verify=False)`` grows with the depth of a network, on one thread.

    python benchmarks/growth.py [--blocks 25 50 100 ...] [--rounds 3] [--json]

The networks are chains of residual blocks (convolution, batch norm, ReLU, convolution, batch norm, sum) of 8 channels on
images of 8 x 8: next to no arithmetic, so that what is timed is the work on the graph. Every round runs each length once;
the best round counts. Times are of the processor, so that other work on the machine changes them little. Building the
networks is not timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from measure import environment
from rich.console import Console
from torch import Tensor, nn

import fxprune

BLOCKS = (25, 50, 100, 200, 400, 800)
WIDTH = 8
IMAGE = torch.empty(1, 3, 8, 8, device="meta")
_HEAD = ("blocks", "seconds", "ms a block", "times linear")

Row = dict[str, Any]


class Block(nn.Module):
    """Convolution, batch norm, ReLU, convolution, batch norm, and the sum with what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


def chain(blocks: int) -> nn.Sequential:
    """A network of so many blocks between a convolution and a classifier, with random weights."""
    torch.manual_seed(0)
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10)
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), *(Block() for _ in range(blocks)), *ends).eval()


def main(arguments: list[str] | None = None) -> None:
    """Time every length, print the table, write ``growth.json`` and ``growth.md``."""
    options = _options(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    document = {
        "settings": {"ratio": options.ratio, "rounds": options.rounds},
        "environment": environment(),
        **growth(measure(sorted(set(options.blocks)), options.ratio, options.rounds)),
    }
    text = _markdown(document)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "growth.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "growth.md").write_text(text)
    if options.json:
        print(json.dumps(document))
    else:
        Console().print(text, highlight=False, markup=False, soft_wrap=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--blocks", nargs="+", type=int, default=list(BLOCKS), metavar="N", help="lengths of the chains")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each, in turns, after one that is not")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    options = parser.parse_args(arguments)
    if min(options.blocks) < 1 or options.rounds < 1:
        parser.error("--blocks and --rounds are at least 1")
    return options


def measure(lengths: list[int], ratio: float, rounds: int) -> dict[int, list[float]]:
    """Seconds of every round, by length; the lengths run in turns, so that a busy minute of the machine hits all alike."""
    chains = {length: chain(length) for length in lengths}
    _timed(chains[lengths[0]], ratio)  # what is set up on first use is not timed
    seconds: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(rounds):
        for length, model in chains.items():
            seconds[length].append(round(_timed(model, ratio), 4))
    return seconds


def _timed(model: nn.Module, ratio: float) -> float:
    gc.collect()
    start = time.process_time()
    fxprune.prune(model, ratio, IMAGE, verify=False)
    return time.process_time() - start


def growth(seconds: dict[int, list[float]]) -> Row:
    """Rows of the best times, and how they grow from the shortest chain to the longest.

    ``ratio_to_linear`` is what the longest takes over what it would at the shortest one's time a block; ``exponent`` is the
    power of the length that the time grows with between them. Both are None for a single length.
    """
    best = {length: min(found) for length, found in seconds.items()}
    first, last = min(best), max(best)
    rows = [
        {
            "blocks": length,
            "seconds": taken,
            "per_block": taken / length,
            "ratio_to_linear": taken / best[first] / (length / first),
            "rounds": seconds[length],
        }
        for length, taken in best.items()
    ]
    if first == last:
        return {"rows": rows, "ratio_to_linear": None, "exponent": None}
    factor = best[last] / best[first]
    return {
        "rows": rows,
        "ratio_to_linear": factor / (last / first),
        "exponent": math.log(factor) / math.log(last / first),
    }


def _markdown(document: Row) -> str:
    settings, rows = document["settings"], document["rows"]
    title = (
        f"Seconds of the processor to prune chains of residual blocks at {settings['ratio']:g}, best of {settings['rounds']}"
    )
    lines = [f"# {title}\n", ", ".join(f"{k} {v}" for k, v in document["environment"].items()) + "\n"]
    lines += ["| " + " | ".join(_HEAD) + " |", "|" + "---:|" * len(_HEAD)]
    for row in rows:
        cells = (row["blocks"], f"{row['seconds']:.2f}", f"{1000 * row['per_block']:.2f}", f"{row['ratio_to_linear']:.2f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if document["exponent"] is not None:
        lines.append(
            f"\nFrom {rows[0]['blocks']} to {rows[-1]['blocks']} blocks the time grows with the power "
            f"{document['exponent']:.2f} of the length: {document['ratio_to_linear']:.2f} times what is linear."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
