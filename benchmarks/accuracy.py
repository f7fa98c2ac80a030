"""Accuracy against computation: pruned by fxprune and by Torch-Pruning to the same MACs, then repaired and trained alike.

    python benchmarks/accuracy.py --data FOLDER --weights resnet20.safetensors vgg16bn.safetensors --targets 0.3 0.5
    python benchmarks/accuracy.py --data FOLDER --weights resnet20.safetensors --targets 2.1x --epochs 3 --seeds 3
    python benchmarks/accuracy.py --data FOLDER --weights resnet56.safetensors --targets macs=0.5 --repairs full tried

FOLDER is that of `criteria.py`. Rows are appended to ``accuracy.jsonl`` as they come, and what is there is not measured again
(``--again stale``: what other code of the package gave is). Torch-Pruning's result is repaired by the same code, in the form
that fxprune gives the same cut, which is checked to put out the same: so the ranking and the repair can be told apart.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accuracy_cuts import (
    BUDGET,
    REPAIRS,
    TOOLS,
    TRIED,
    Pruned,
    chosen_by_images,
    fits,
    known,
    macs,
    mended,
    ours,
    params,
    theirs,
)
from accuracy_peer import IMPORTANCES
from accuracy_table import drawn, table
from criteria_accuracy import accuracy
from criteria_data import Batches, Cifar, batches, load_network
from measure import code_hash, environment
from models import PRESETS
from peers import installed
from torch import nn
from torch.utils.data import TensorDataset

import fxprune
from fxprune import criteria

__all__ = ["main"]

HERE = Path(__file__).parent
KEY = ("network", "test", "tool", "criterion", "target", "repair", "epochs", "seed", "images", "train", "lr", "precision")
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing; write ``accuracy.json``, ``accuracy.md`` and ``accuracy.svg``."""
    options = _options(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "accuracy.jsonl"
    code = code_hash(HERE.parent)
    rows = {_key(row): row for row in map(json.loads, log.read_text().splitlines() if log.exists() else [])}
    data = Cifar(options.data)
    for file in [] if options.report else options.weights:
        network, model = load_network(file)
        for head, measure in _jobs(network, model, data, options):
            known = rows.get(_key(head))
            if known is None or (options.again == "stale" and known["code"] != code):
                rows[_key(head)] = row = {**head, **measure(), "code": code}
                with log.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
    found = [*rows.values()]
    (options.out / "accuracy.json").write_text(json.dumps({"environment": environment(), "rows": found}, indent=1) + "\n")
    (options.out / "accuracy.md").write_text("\n".join(table(found)))
    drawn(found, options.out / "accuracy.svg")
    print(f"wrote {options.out / 'accuracy.md'}")


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)


def _jobs(network: str, model: nn.Module, data: Cifar, options: argparse.Namespace) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """What identifies a row, and what measures it. A cut is made once for all that becomes of it, when the first needs it."""
    work = _Work(model, data, options)
    shared = {"network": network, "test": options.test}
    yield {**shared, "tool": "dense"}, work.dense
    named = {"fxprune": options.criteria, "torch-pruning": options.importances}
    for target in options.targets:
        for tool in options.tools:
            for name in named[tool] if fits(model, target) else []:
                cuts: dict[int, _Cut] = {}
                for repair in options.repairs:
                    if repair == TRIED and not (tool == "fxprune" and target.startswith(BUDGET)):
                        continue
                    for epochs in options.epochs:
                        for seed in range(options.seeds if epochs or name == "random" else 1):
                            made = 0 if name != "random" else seed  # other cuts do not depend on chance
                            cut = cuts.setdefault(made, _Cut(work, tool, name, target, made))
                            head = {"tool": tool, "criterion": name, "target": target, "repair": repair}
                            head |= {"epochs": epochs, "seed": seed, "images": options.images}
                            if epochs:
                                head |= {"train": options.train, "lr": options.lr, "precision": options.precision}
                            yield {**shared, **head}, partial(cut.measured, repair, epochs, seed)


class _Work:
    """A network, and the images that it is measured with."""

    def __init__(self, model: nn.Module, data: Cifar, options: argparse.Namespace) -> None:
        self.model, self.data, self.options = model, data, options

    @cached_property
    def calibration(self) -> Batches:
        return batches(*self.data("train", self.options.images))

    @cached_property
    def test(self) -> Batches:
        return batches(*self.data("test", self.options.test))

    @cached_property
    def costs(self) -> tuple[int, int]:
        return macs(self.model), params(self.model)

    def dense(self) -> Row:
        return {"accuracy": accuracy(self.model, self.test), "macs": self.costs[0], "params": self.costs[1]}


class _Cut:
    """One cut of a network, and what becomes of it."""

    def __init__(self, work: _Work, tool: str, name: str, target: str, seed: int) -> None:
        self.work, self.tool, self.name, self.target, self.seed = work, tool, name, target, seed
        self._mended: dict[str, tuple[nn.Module, float]] = {}
        self._choice: Row = {}

    @cached_property
    def pruned(self) -> Pruned:
        made = ours if self.tool == "fxprune" else theirs
        return made(self.work.model, self.name, self.target, self.seed, self.work.calibration)

    def measured(self, repair: str, epochs: int, seed: int) -> Row:
        """Accuracy on the test images, the shares of MACs and parameters that went, seconds of the repair and the training."""
        model, seconds = self._repaired(repair)
        row: Row = {"repair_seconds": seconds}
        if epochs:
            start = time.perf_counter()
            model = self._trained(model, epochs, seed)
            row["train_seconds"] = round(time.perf_counter() - start, 1)
        row["accuracy"] = accuracy(model.eval(), self.work.test)
        whole = self.work.costs
        row |= self._choice if repair == TRIED else {}
        return {**row, "macs": 1 - macs(model) / whole[0], "params": 1 - params(model) / whole[1]}

    def _repaired(self, repair: str) -> tuple[nn.Module, float]:
        if repair not in self._mended:
            images = self.work.data("train", self.work.options.images)[0]
            if repair == TRIED:
                start, work = time.perf_counter(), self.work
                made, self._choice = chosen_by_images(work.model, self.name, self.target, self.seed, work.calibration, images)
            else:
                pruned, start = self.pruned, time.perf_counter()
                made = mended(pruned, repair, images, self.seed)
            self._mended[repair] = made, round(time.perf_counter() - start, 1)
        return self._mended[repair]

    def _trained(self, model: nn.Module, epochs: int, seed: int) -> nn.Module:
        """After some epochs of SGD with a cosine, images moved by up to 4 pixels and mirrored, in bf16."""
        options = self.work.options
        trained: nn.Module = fxprune.finetune(
            model,
            TensorDataset(*self.work.data("train", options.train)),
            epochs=epochs,
            batch_size=128,
            lr=options.lr,
            shift=4,
            flip=True,
            precision=options.precision,
            seed=seed,
            progress=False,
        )
        return trained


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0].replace("\n", " "))
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="CIFAR-10 as JPEG: see criteria.py")
    parser.add_argument("--weights", nargs="+", type=Path, default=[], metavar="FILE", help="safetensors")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, help="default: those that are installed")
    parser.add_argument("--criteria", nargs="+", default=["l2", "random"], choices=criteria.names(), metavar="NAME")
    parser.add_argument("--importances", nargs="+", default=[*IMPORTANCES], choices=IMPORTANCES, help="of Torch-Pruning")
    parser.add_argument(
        *("--targets", "-t"),
        nargs="+",
        default=["0.3", "0.5"],
        metavar="CUT",
        help=f"share of the MACs to remove, 2.1x (fewer), macs=0.5[+branches] (to keep), or one of {', '.join(PRESETS)}",
    )
    parser.add_argument("--repairs", nargs="+", default=[*REPAIRS], choices=[*REPAIRS, TRIED], help="norms: statistics alone")
    parser.add_argument("--epochs", nargs="+", type=int, default=[0], help="of training; 0: none")
    parser.add_argument("--seeds", type=int, default=5, help="of random, and of all that is trained")
    parser.add_argument("--images", type=int, default=640, help="training images that criteria and repairs see")
    parser.add_argument("--train", type=int, default=50_000, help="training images of an epoch")
    parser.add_argument("--lr", type=float, default=0.01, help="highest learning rate")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="of the training")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--again", choices=["stale"], help="measure again what other code of the package gave")
    parser.add_argument("--report", action="store_true", help="measure nothing: only write table and plot")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    if not options.report and not (options.data and options.weights):
        parser.error("--data and --weights are needed to measure")
    options.tools = options.tools or [tool for tool in TOOLS if tool == "fxprune" or installed()]
    wrong = [target for target in options.targets if not known(target)]
    if wrong:
        parser.error(f"{wrong[0]!r} is neither a share of the MACs, nor 2.1x, nor macs=0.5, nor one of {', '.join(PRESETS)}")
    return options


if __name__ == "__main__":
    main()
