"""What sparse learning is worth: accuracy after pruning, with and without each method, after training of equal length.

    python benchmarks/sparsity.py                                                    # scikit-learn's digits, from scratch
    python benchmarks/sparsity.py --data FOLDER --weights resnet20.safetensors       # CIFAR, from weights on

FOLDER is that of `criteria.py`. Each method is trained with several strengths and pruned by several criteria to equal MACs,
without any training or repair afterwards. The first half of the test images chooses strength and criterion (by the mean over
seeds, of the plain training, too), the second is what is reported. Rows are appended to ``sparsity.jsonl`` as they come, and
what is there is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from criteria_accuracy import accuracy, gone_for, slim_for
from criteria_data import Cifar, batches, load_network
from measure import code_hash, environment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fxprune
from fxprune import criteria, sparsity
from fxprune.cli.demo import DigitsNet
from fxprune.inputs.digits import digits

__all__ = ["METHODS", "main", "table"]

Row = dict[str, Any]
# A name in `sparsity.names` and options; several are tried. ADMM's rounds end with the training: see `_method`.
METHODS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "none": [("", {})],
    "group": [("group", {"strength": s, "biases": True}) for s in (3e-3, 1e-2)],
    "scale": [("scale", {"strength": s, "coupled": True}) for s in (1e-2, 3e-2)],
    "scp": [("scp", {"strength": s}) for s in (3e-3, 1e-2)],
    "admm": [("admm", {"ratio": 0.5, "rho": r}) for r in (0.05, 0.2)],
    "admm, progressive": [("admm", {"ratio": [0.2, 0.35, 0.5], "rho": r}) for r in (0.05, 0.2)],
}
CRITERIA = ("l2", "bn_scale", "bn_relu")
_UPDATES = 12  # of ADMM's copies while a model is trained


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing; write ``sparsity.json`` and ``sparsity.md``."""
    options = _options(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "sparsity.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    code = code_hash(Path(__file__).parents[1])
    for file in options.weights or [None]:
        work = _Work(file, options)
        for head, name, settings in _wanted(work, options):
            if any(head.items() <= row.items() for row in rows):
                continue
            for row in work.measured(name, settings, head["seed"]):
                rows.append({**head, **row, "code": code})
                with log.open("a") as lines:
                    lines.write(json.dumps(rows[-1]) + "\n")
    (options.out / "sparsity.json").write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    (options.out / "sparsity.md").write_text("\n".join(table(rows)))
    print(f"wrote {options.out / 'sparsity.md'}")


def _wanted(work: _Work, options: argparse.Namespace) -> Iterator[tuple[Row, str, dict[str, Any]]]:
    shared = {"network": work.network, "epochs": options.epochs, "lr": options.lr, "train": len(work.train[0])}
    for seed in range(options.seeds):
        for method in options.methods:
            for name, settings in METHODS[method]:
                yield {**shared, "method": method, "settings": json.dumps(settings), "seed": seed}, name, settings


class _Work:
    """One network and its images."""

    def __init__(self, file: Path | None, options: argparse.Namespace) -> None:
        self.options = options
        if file is None:
            data = digits()
            self.network, self.start = f"digits, width {options.width}", None
            self.train = data.train_x[: options.train], data.train_y[: options.train]
            test = data.test_x, data.test_y
        else:
            cifar = Cifar(options.data)
            self.network, self.start = load_network(file)
            self.train, test = cifar("train", options.train), cifar("test", options.test)
        half = len(test[0]) // 2
        self.halves = batches(test[0][:half], test[1][:half]), batches(test[0][half:], test[1][half:])
        self.example = self.train[0][:2]

    def measured(self, name: str, settings: dict[str, Any], seed: int) -> list[Row]:
        """Train once, prune in all ways: a row for each, and one of the network as it is."""
        started = time.perf_counter()
        model, share = self._trained(name, settings, seed)
        shared = {"off": share, "seconds": round(time.perf_counter() - started, 1)}
        rows = [{"criterion": "", "scope": "", "cut": 0.0, **self._told(model), "macs": 0.0, **shared}]
        analysis = fxprune.analyze(model, self.example)
        for criterion in CRITERIA:
            scores = criteria.score_groups(criteria.resolve(criterion), model, analysis)
            for scope in ("layer", "global"):
                for cut in self.options.cuts:
                    slim, fewer = slim_for(model, analysis, gone_for(analysis, scores, cut, scope))
                    rows.append({"criterion": criterion, "scope": scope, "cut": cut, **self._told(slim), **fewer, **shared})
        return rows

    def _told(self, model: nn.Module) -> Row:
        return {"chosen_on": accuracy(model, self.halves[0]), "reported_on": accuracy(model, self.halves[1])}

    def _trained(self, name: str, settings: dict[str, Any], seed: int) -> tuple[nn.Module, float]:
        """The trained network, and the share of channels that the method says are off."""
        torch.manual_seed(seed)
        if self.start is None:
            model: nn.Module = DigitsNet(self.options.width)
        else:
            model = copy.deepcopy(self.start)
        images, labels = self.train
        steps = self.options.epochs * math.ceil(len(images) / self.options.batch)
        method = _method(name, model, self.example, settings, steps)
        optimizer = torch.optim.SGD(model.parameters(), self.options.lr, momentum=0.9, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        model.train()
        for _ in range(self.options.epochs):
            for rows in torch.randperm(len(images)).split(self.options.batch):
                cross_entropy(model(_mirrored(images[rows], self.start)), labels[rows]).backward()
                if method is not None:
                    method.before_step()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                if method is not None:
                    method.after_step()
        share = 0.0 if method is None else method.progress()["share"]
        if method is not None:
            method.remove()
        return model.eval(), share


def _method(name: str, model: nn.Module, example: Tensor, settings: dict[str, Any], steps: int) -> sparsity.Sparsity | None:
    if not name:
        return None
    if name == "admm":
        stages = len(settings["ratio"]) if isinstance(settings["ratio"], list) else 1
        settings = {**settings, "every": max(1, steps // _UPDATES), "rounds": max(1, _UPDATES // (2 * stages))}
    return sparsity.make(name, model, example, **settings)


def _mirrored(images: Tensor, start: nn.Module | None) -> Tensor:
    """Half of CIFAR's images mirrored; digits are not."""
    if start is None:
        return images
    return torch.where((torch.rand(len(images)) < 0.5)[:, None, None, None], images.flip(3), images)


# -- what is written ---------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> list[str]:
    """Markdown: for each method what was best on the first half of the images, and how good it is on the second."""
    lines = ["# Sparse learning", ""]
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        seeds, first = len({row["seed"] for row in mine}), mine[0]
        cuts = sorted({row["cut"] for row in mine if row["cut"]})
        lines += [
            f"{network}: {first['epochs']} epochs over {first['train']:,} images, learning rate {first['lr']:g}, "
            f"seeds: {seeds}. Accuracy in per cent on images that chose nothing, mean ± standard deviation over seeds; in "
            "brackets what was chosen: settings, criterion, scope.",
            "",
            "| method | " + " | ".join(f"{cut:.0%} fewer MACs | the same, not pruned" for cut in cuts) + " |",
            "|---|" + "---|---|" * len(cuts),
        ]
        for method in [name for name in METHODS if any(row["method"] == name for row in mine)]:
            cells = []
            for cut in cuts:
                settings, criterion, scope = _best(mine, method, cut)
                of = [r for r in mine if (r["method"], r["settings"]) == (method, settings)]
                found = [r for r in of if (r["criterion"], r["scope"], r["cut"]) == (criterion, scope, cut)]
                told = ", ".join(f"{k} {v}" for k, v in json.loads(settings).items() if v is not True)
                what = ", ".join(filter(None, (told, criterion, scope)))
                cells += [f"{_spread(found)} ({what})", _spread([r for r in of if not r["cut"]])]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _best(rows: list[Row], method: str, cut: float) -> tuple[str, str, str]:
    """Settings, criterion and scope with the highest mean on the half that chooses."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row["method"] == method and row["cut"] == cut:
            found.setdefault((row["settings"], row["criterion"], row["scope"]), []).append(row["chosen_on"])
    return max(found, key=lambda key: mean(found[key]))


def _spread(rows: list[Row]) -> str:
    values = [100 * row["reported_on"] for row in rows]
    return f"{mean(values):.1f} ± {stdev(values) if len(values) > 1 else 0:.1f}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10; without it scikit-learn's digits are taken")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="networks for CIFAR-10, whose training goes on")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--cuts", type=float, nargs="*", default=[0.5, 0.7], help="shares of the MACs that go")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=8, help="of the network for digits")
    parser.add_argument("--train", type=int, default=10_000, help="images to train on, at most")
    parser.add_argument("--test", type=int, default=2_000, help="of CIFAR")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    if bool(options.data) != bool(options.weights):
        parser.error("--data and --weights belong together")
    return options


if __name__ == "__main__":
    main()
