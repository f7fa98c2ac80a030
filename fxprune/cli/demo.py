"""Train, prune, repair, fine-tune, compare: the whole road on real images, in about a minute on a laptop.

The images are scikit-learn's digits, 1,797 handwritten digits of 8x8 pixels that come inside that package.
"""

from __future__ import annotations

import copy
import json as jsonlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.errors import InputError
from fxprune.inputs.digits import Digits, digits
from fxprune.progress import Bar

__all__ = ["DigitsNet", "run"]

_RATIO = 0.35  # of the channels: more than half of the MACs go
_IMAGES = 640  # that a repair looks at, without their labels
_BATCH = 64
_ROUNDS = 15  # of the latency measurement


class Block(nn.Module):
    """Two convolutions and a shortcut: ``[N, inner, H, W] -> [N, outer, H / stride, W / stride]``."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """A residual network for digits: ``[N, 1, 8, 8] -> [N, 10]``."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stage1 = nn.Sequential(Block(width, width), Block(width, width))
        self.stage2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.stage1(self.stem(x)))
        return self.head(x.mean((2, 3)))


def run(out: str | Path, json: bool = False, epochs: int = 16, seed: int = 0, report: Path | None = None) -> dict[str, Any]:
    """Train a dense network, prune it globally by l2, repair it, fine-tune it, and write the slim files to `out`.

    Runs on one thread: so small a network gains little from two, and waits for both on a busy machine.

    Args:
        out: folder for ``slim.py``, ``slim.safetensors``, ``plan.json`` and ``demo.json``.
        json: print nothing; else a table of accuracy, MACs, parameters and latency.
        epochs: passes over the training images for the dense network; fine-tuning takes three quarters.
        seed: of weights, batches and shifts.
        report: HTML file that shows the fine-tuned model, with its accuracy on the held-out images.

    Returns:
        Under ``models``, for each of ``dense``, ``pruned``, ``repaired`` and ``fine-tuned``: held-out accuracy, MACs of one
        image, parameters, milliseconds for the 450 held-out images. Under ``seconds``: what each step took.

    Raises:
        PruneError: scikit-learn is missing, or `out` cannot be written.
    """
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, not {epochs}")
    import fxprune

    data = digits()
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clock = [time.perf_counter()]
        dense = DigitsNet()
        _train(dense, data, epochs, 3e-3, "training")
        clock.append(time.perf_counter())
        pruned = fxprune.prune(dense, _RATIO, data.test_x[:2], seed=seed)
        clock.append(time.perf_counter())
        repaired = fxprune.repair(pruned, dense, data.train_x[:_IMAGES], seed=seed)
        clock.append(time.perf_counter())
        tuned = copy.deepcopy(repaired)
        tuning = -(-3 * epochs // 4)
        _train(tuned, data, tuning, 5e-3, "fine-tuning")
        clock.append(time.perf_counter())
        models = {"dense": dense, "pruned": pruned, "repaired": repaired, "fine-tuned": tuned}
        latency = _latency(list(models.values()), data.test_x)
    seconds = [round(b - a, 2) for a, b in pairwise(clock)]
    result = {
        "models": _rows(models, data, latency),
        "seconds": dict(zip(("training", "pruning", "repair", "fine-tuning"), seconds, strict=True)),
        "held_out_images": len(data.test_x),
        "ratio": _RATIO,
        "seed": seed,
        "epochs": epochs,
    }
    written = _write(Path(out), tuned, pruned.meta["fxprune"].plan.to_json(), result)
    if report is not None:
        written.append(_report(dense, tuned, data, tuning, report))
    result["written"] = written
    if not json:
        _show(result)
    return result


def _report(dense: nn.Module, tuned: nn.Module, data: Digits, epochs: int, file: Path) -> str:
    """The page of the fine-tuned model."""
    import fxprune

    report: Any = tuned.meta["fxprune"]  # type: ignore[index]
    report.notes.append(f"after the repair it was trained on labelled images for {epochs} epoch{'s' * (epochs > 1)}")
    with _one_thread():
        fxprune.validate(dense, tuned, [*zip(data.test_x.split(_BATCH), data.test_y.split(_BATCH), strict=True)])
    return str(fxprune.report(tuned, file))


def _rows(models: dict[str, nn.Module], data: Digits, latency: Sequence[float]) -> dict[str, dict[str, float]]:
    report = models["pruned"].meta["fxprune"]  # type: ignore[index]
    return {
        name: {
            "accuracy": accuracy(model, data),
            "macs": report.macs_before if name == "dense" else report.macs_after,  # type: ignore[union-attr]
            "parameters": sum(p.numel() for p in model.parameters()),
            "latency_ms": milliseconds,
        }
        for (name, model), milliseconds in zip(models.items(), latency, strict=True)
    }


def accuracy(model: nn.Module, data: Digits) -> float:
    """Fraction of the held-out images that `model` names rightly."""
    model.eval()
    with torch.no_grad():
        return float((model(data.test_x).argmax(1) == data.test_y).double().mean())


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(model: nn.Module, data: Digits, epochs: int, rate: float, name: str) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = epochs * -(-len(data.train_x) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    with Bar(name, steps) as bar:
        for _ in range(epochs):
            for x, y in _batches(data):
                loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.advance()
    model.eval()


def _batches(data: Digits) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches, each image moved by up to one pixel."""
    for picked in torch.randperm(len(data.train_x)).split(_BATCH):
        padded = F.pad(data.train_x[picked], (1, 1, 1, 1))
        windows = padded.unfold(2, 8, 1).unfold(3, 8, 1)  # [N, 1, 3, 3, 8, 8]: one for each of 3 x 3 shifts
        down, right = torch.randint(3, (2, len(picked)))
        yield windows[torch.arange(len(picked)), :, down, right], data.train_y[picked]


def _latency(models: Sequence[nn.Module], x: Tensor) -> list[float]:
    """Median milliseconds of one forward each, measured in turns so that a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for turn in range(_ROUNDS + 1):
            for model, found in zip(models, times, strict=True):
                start = time.perf_counter()
                model(x)
                if turn:  # the first round warms up
                    found.append((time.perf_counter() - start) * 1e3)
    return [median(found) for found in times]


def _write(out: Path, slim: torch.fx.GraphModule, plan: str, result: dict[str, Any]) -> list[str]:
    import fxprune
    from fxprune.codegen.files import write_text

    source = fxprune.save(slim, out / "slim.py")
    files = [source, source.with_suffix(".safetensors"), out / "plan.json", out / "demo.json"]
    write_text(files[2], plan)
    write_text(files[3], jsonlib.dumps(result, indent=1) + "\n")
    return [str(file) for file in files]


def _show(result: dict[str, Any]) -> None:
    table = Table("", "accuracy", "MACs", "parameters", "latency", title="Digits, held-out images")
    for name, row in result["models"].items():
        table.add_row(
            name,
            f"{row['accuracy']:.1%}",
            f"{row['macs'] / 1e6:.2f} M",
            f"{row['parameters']:,}",
            f"{row['latency_ms']:.2f} ms",
        )
    console = Console()
    console.print(table)
    spent = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result["seconds"].items())
    console.print(f"{spent}; latency of {result['held_out_images']} images", highlight=False)
    for path in result["written"]:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
