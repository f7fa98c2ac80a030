"""What criteria cost and what they are worth: scoring time, accuracy before fine-tuning, stability of the ranking.

    python benchmarks/criteria.py                                              time alone, on random images
    python benchmarks/criteria.py --data FOLDER --weights resnet20.safetensors time, accuracy and stability

FOLDER holds CIFAR-10 as ``cifar10-jpeg-train.npz`` and ``cifar10-jpeg-test.npz``: see `criteria_data`. Results are appended to
``criteria.jsonl`` as they come, and what is there is not measured again. Needs Linux: each row is measured in a forked child.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from criteria_accuracy import accuracy_tasks
from criteria_cost import COST, Row, Task, cost_tasks
from criteria_data import Cifar, load_network
from criteria_stability import STABILITY, stability_tasks
from criteria_table import write_tables
from limits import limited
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fxprune import criteria


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, write ``criteria.json`` and ``criteria.md``."""
    options = _options(arguments)
    torch.set_num_threads(1)
    for name in criteria.names():
        criteria.resolve(name)  # so that no import is timed
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "criteria.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    tasks = [(head, task) for head, task in _tasks(options) if not any(head.items() <= row.items() for row in rows)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No thread of ours may run when a child is forked: the bar is drawn between rows.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        bar = progress.add_task("criteria", total=len(tasks))
        for head, task in tasks:
            progress.update(bar, description=" ".join(map(str, head.values())), refresh=True)
            made = [{**head, **row} for row in _measured(head, task, rows, options)]
            with log.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in made)
            rows += made
            progress.advance(bar)
    write_tables(rows, options.out)
    print(f"wrote {options.out / 'criteria.md'}")


def _measured(head: Row, task: Task, rows: list[Row], options: argparse.Namespace) -> list[Row]:
    """The rows of a task; what fewer images could not be done within the limits is not tried on more."""
    for row in rows:
        same = all(row.get(key) == head[key] for key in ("part", "network", "criterion"))
        if same and head["part"] == "cost" and row["images"] < head["images"] and "limit" in row:
            return [{"error": row["error"], "limit": row["limit"]}]
    found = limited(task(), options.seconds, options.gib)
    if isinstance(found, list):
        return found
    over = found.startswith("over") and found.endswith(" s")
    return [{"error": found, "limit": options.seconds} if over else {"error": found}]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--criteria", nargs="+", default=criteria.names(), metavar="NAME", help="default: all")
    parser.add_argument("--parts", nargs="+", choices=["cost", "accuracy", "stability"], help="default: what is possible")
    parser.add_argument("--networks", nargs="+", choices=sorted(COST), default=list(COST), help="for the cost")
    parser.add_argument("--images", nargs="+", type=int, default=[1, 100, 640], help="for the cost")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="CIFAR-10 as JPEG: cifar10-jpeg-{train,test}.npz")
    parser.add_argument("--weights", nargs="+", type=Path, default=[], metavar="FILE", help="safetensors of CIFAR ResNets")
    parser.add_argument("--cuts", nargs="+", type=float, default=[0.1, 0.3, 0.5], help="shares of the MACs to remove")
    parser.add_argument("--scopes", nargs="+", choices=["layer", "global"], default=["layer", "global"])
    parser.add_argument("--calibration", type=int, default=640, help="training images that criteria see")
    parser.add_argument("--stability", type=int, default=1280, help="training images for the stability")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--seconds", type=int, default=300, help="limit of processor time for one row")
    parser.add_argument("--gib", type=float, default=8, help="limit of memory for one row")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    ready = options.data is not None and bool(options.weights)
    options.parts = options.parts or (["cost", "accuracy", "stability"] if ready else ["cost"])
    if not ready and set(options.parts) - {"cost"}:
        parser.error("accuracy and stability need --data and --weights")
    unknown = sorted(set(options.criteria) - set(criteria.names()))
    if unknown:
        parser.error(f"unknown criteria: {', '.join(unknown)}")
    return options


def _tasks(options: argparse.Namespace) -> Iterable[tuple[Row, Task]]:
    """What identifies a row, and what measures it. Networks are made when their first task is."""
    if "cost" in options.parts:
        for network in options.networks:
            yield from cost_tasks(network, options.criteria, options.images)
    if not {"accuracy", "stability"} & {*options.parts}:
        return
    data = Cifar(options.data)
    for file in options.weights:
        name, model = load_network(file)
        if "accuracy" in options.parts:
            yield from accuracy_tasks(name, model, data, options)
        if "stability" in options.parts:
            names = [c for c in STABILITY if c in options.criteria]
            yield from stability_tasks(name, model, data, names, options.stability)


if __name__ == "__main__":
    main()
