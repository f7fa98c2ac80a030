"""How many images does a repair need? Seconds, memory and accuracy of `fxprune.repair` as their number grows.

    python benchmarks/repair_images.py --data FOLDER --weights resnet20.safetensors resnet56.safetensors

Networks lose half of their MACs by fxprune's defaults (one ranking of all channels by l2), and are repaired from unlabelled
training images, drawn anew for each seed; accuracy is that of test images before any training. Each row is measured in a
process of its own, on one thread: seconds are those of the processor, memory is the peak above what the process had before.
FOLDER is that of `criteria.py`. Rows are appended to ``repair_images.jsonl`` as they come; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from criteria_accuracy import EXAMPLE, accuracy, gone_for
from criteria_data import Batches, Cifar, batches, load_network
from measure import code_hash, environment, memory, reset_peak
from torch import nn

import fxprune
from fxprune import criteria
from fxprune.options import PruneOptions
from fxprune.planning.document import document_of

__all__ = ["halved", "main", "table"]

COUNTS = [20, 50, 100, 320, 640, 2000, 5000]
FEW = 320  # up to so many images, three seeds say what their choice does
SEEDS = 3
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, write ``repair_images.json`` and ``repair_images.md``."""
    options = _options(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "repair_images.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    data, code = Cifar(options.data), code_hash(Path(__file__).parents[1])
    for file in options.weights:
        name, model = load_network(file)
        test = batches(*data("test", options.test))
        slim = halved(model, options.cut)
        head = {"network": name, "cut": options.cut, "test": options.test}
        for images, seed in _wanted(options):
            row = {**head, "images": images, "seed": seed}
            if any(row.items() <= r.items() for r in rows):
                continue
            found = _apart(slim, model, _drawn(data, options, images, seed), test, seed)
            rows.append({**row, **found, "code": code})
            with log.open("a") as lines:
                lines.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(rows[-1]), flush=True)
    (options.out / "repair_images.json").write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    (options.out / "repair_images.md").write_text("\n".join(table(rows)))
    print(f"wrote {options.out / 'repair_images.md'}")


def halved(model: nn.Module, cut: float) -> Any:
    """The slim model with a share `cut` fewer MACs by fxprune's defaults."""
    analysis = fxprune.analyze(model, torch.zeros(EXAMPLE))
    scores = criteria.score_groups(criteria.resolve("l2"), model, analysis)
    plan = document_of(model, analysis.cut(gone_for(analysis, scores, cut)), PruneOptions(0.5).to_json())
    return fxprune.apply(model, plan, verify=False).eval()


def _drawn(data: Cifar, options: argparse.Namespace, images: int, seed: int) -> torch.Tensor:
    """Training images without their labels, those of a seed; 0 images: none."""
    pool, _ = data("train", max(options.counts))
    return pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:images]]


def _apart(slim: Any, model: nn.Module, images: torch.Tensor, test: Batches, seed: int) -> Row:
    """One row, measured in a process of its own."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(_measured(slim, model, images, test, seed)))
    process.start()
    found: Row = queue.get()
    process.join()
    return found


def _measured(slim: Any, model: nn.Module, images: torch.Tensor, test: Batches, seed: int) -> Row:
    if not len(images):
        return {"dense": accuracy(model, test), "accuracy": accuracy(slim, test)}
    reset_peak()
    before, start, began = memory()[0], time.process_time(), time.perf_counter()
    fixed = fxprune.repair(slim, model, images, seed=seed)
    took, waited, peak = time.process_time() - start, time.perf_counter() - began, memory()[1] - before
    found = fixed.meta["fxprune"].repair
    return {
        "accuracy": accuracy(fixed, test),
        "seconds": round(took, 2),
        "wall": round(waited, 2),
        "peak_mib": round(peak / 2**20),
        "error": [found.before, found.after],
    }


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown: a table a network."""
    yield "# Images of a repair\n"
    for network, cut in dict.fromkeys((r["network"], r["cut"]) for r in rows):
        own = [r for r in rows if (r["network"], r["cut"]) == (network, cut)]
        plain = next((r for r in own if not r["images"]), None)
        yield f"## {network}, {cut:.0%} fewer MACs\n"
        if plain is not None:
            yield (
                f"CIFAR-10 (JPEG q75), {plain['test']} test images, before any training: dense {100 * plain['dense']:.2f} %, "
                f"pruned {100 * plain['accuracy']:.2f} %. One thread of a CPU.\n"
            )
        yield "| images | accuracy after repair, % | over seeds | seconds of CPU | peak memory, MiB |"
        yield "|---:|---:|---|---:|---:|"
        for images in sorted({r["images"] for r in own if r["images"]}):
            same = [r for r in own if r["images"] == images]
            found = [100 * r["accuracy"] for r in same]
            spread = f"± {stdev(found):.2f} of {len(found)}" if len(found) > 1 else "one"
            seconds, peak = mean(r["seconds"] for r in same), max(r["peak_mib"] for r in same)
            yield f"| {images:,} | {mean(found):.2f} | {spread} | {seconds:.1f} | {peak:,} |"
        yield ""


def _wanted(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    yield 0, 0
    for seed in range(SEEDS):
        yield from ((images, seed) for images in options.counts if images <= FEW or not seed)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="CIFAR-10 as JPEG: see criteria.py")
    parser.add_argument("--weights", nargs="+", type=Path, required=True, metavar="FILE", help="safetensors")
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS, help="numbers of images")
    parser.add_argument("--cut", type=float, default=0.5, help="share of the MACs that goes")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
