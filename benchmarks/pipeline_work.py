"""What the pipelines work on: networks with their images or sounds, cuts of them, and what brings the accuracy back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accuracy_cuts import Pruned, mended
from criteria_accuracy import accuracy
from criteria_data import Batches, Cifar, batches, load_network
from models import CifarResNet, DCASE21Net, VGGish
from safetensors.torch import load_model, save_model
from sounds import clips
from torch import nn
from torch.utils.data import TensorDataset

import fxprune
from fxprune import criteria

__all__ = ["Row", "Subject", "agreement", "of_file", "of_scratch", "of_sounds"]

Row = dict[str, Any]
_AUDIO: dict[str, tuple[Callable[[], nn.Module], dict[str, int], dict[str, Any]]] = {
    "DCASE21_Net": (DCASE21Net, {"frames": 500, "bands": 40, "hop": 320}, {"lr": 3e-3}),
    "VGGish": (VGGish, {"frames": 96, "bands": 64, "hop": 160}, {"lr": 2e-4}),
}


@dataclass
class Subject:
    """A trained network.

    Attributes:
        name: in the table.
        model: in evaluation mode.
        calibration: training images and labels that criteria and repairs see.
        train: what it is fine-tuned on.
        test: what accuracy is measured on.
        recipe: of the fine-tuning.
        early: the network after a tenth of its training, where it was trained here.
    """

    name: str
    model: nn.Module
    calibration: Batches
    train: TensorDataset
    test: Batches
    recipe: dict[str, Any]
    early: nn.Module | None = None
    _slim: dict[str, Any] = field(default_factory=dict)
    _plans: dict[str, Any] = field(default_factory=dict)

    def measured(self, ratio: Mapping[str, float], head: Row) -> Row:
        """One row: scored, cut, repaired and trained as `head` says; seconds are of the processor."""
        slim, row = self._repaired(ratio, head)
        if head["training"] != "none":
            start = time.process_time()
            factors = "do_conv" if head["training"] == "do_conv" else None
            recipe = {**self.recipe, "epochs": head["epochs"], "seed": head["seed"], "precision": head["precision"]}
            slim = fxprune.finetune(slim, self.train, overparameterize=factors, progress=False, **recipe)
            row["train_seconds"] = round(time.process_time() - start, 1)
        return {**row, "accuracy": accuracy(slim.eval(), self.test)}

    def _repaired(self, ratio: Mapping[str, float], head: Row) -> tuple[Any, Row]:
        drawn = head["seed"] if head["criterion"] == "random" else 0
        key = "/".join(map(str, (head["preset"], head["criterion"], head["when"], drawn, head["repair"])))
        if key not in self._slim:
            plan, seconds = self._planned(ratio, head, drawn)
            slim: Any = fxprune.apply(self.model, plan, verify=False).eval()
            start = time.process_time()
            images = torch.cat([x for x, _ in self.calibration])
            slim = mended(Pruned(slim, slim, self.model), head["repair"], images, 0)
            row = {"score_seconds": seconds, "repair_seconds": round(time.process_time() - start, 1)}
            row |= {"macs": 1 - plan.macs[1] / plan.macs[0], "params": 1 - plan.params[1] / plan.params[0]}
            self._slim = {key: (slim, row)}  # the last alone: all of them would be many
        slim, row = self._slim[key]
        return slim, dict(row)

    def _planned(self, ratio: Mapping[str, float], head: Row, drawn: int) -> tuple[Any, float]:
        """The plan of a criterion, whatever repair follows, and how long the scores took."""
        key = "/".join(map(str, (head["preset"], head["criterion"], head["when"], drawn)))
        if key not in self._plans:
            scored = self.early if head["when"] == "early" else self.model
            assert scored is not None
            start = time.process_time()
            needs = getattr(criteria.resolve(head["criterion"]), "needs_data", False)
            data, example = (self.calibration if needs else None), self.calibration[0][0][:2]
            plan = fxprune.plan(scored, ratio, example, criterion=head["criterion"], seed=drawn, data=data)
            self._plans[key] = plan, round(time.process_time() - start, 1)
        return self._plans[key]

    def dense(self) -> Row:
        """The network as it is."""
        return {"accuracy": accuracy(self.model, self.test)}


def of_file(file: Path, data: Cifar, options: Any) -> Subject:
    """A network of `criteria_data`, on CIFAR-10; a ResNet with its shortcuts as constant products, as the presets need them."""
    name, model = load_network(file)
    if isinstance(model, CifarResNet):
        depth = int(name.partition("-")[2])
        weights = model.state_dict()
        model = CifarResNet(depth, selectors=True)
        model.load_state_dict(weights)
    return _on_cifar(name, model.eval(), data, options)


def of_scratch(depth: int, seed: int, data: Cifar, options: Any) -> Subject:
    """A CIFAR ResNet trained here from fresh weights for ten epochs, and what it was after the first."""
    torch.manual_seed(seed)
    made = _on_cifar(f"ResNet-{depth} from scratch", CifarResNet(depth), data, options)
    seen: list[nn.Module] = []

    def look(model: nn.Module) -> dict[str, float]:
        if not seen:
            seen.append(model.eval())
        return {}

    recipe = {**made.recipe, "lr": 0.1, "epochs": 10, "seed": seed, "precision": options.precision}
    made.model = fxprune.finetune(made.model.train(), made.train, evaluate=look, progress=False, **recipe).eval()
    made.early = seen[0]
    return made


def _on_cifar(name: str, model: nn.Module, data: Cifar, options: Any) -> Subject:
    calibration, test = batches(*data("train", options.images)), batches(*data("test", options.test))
    recipe = {"batch_size": 128, "lr": options.lr, "shift": 4, "flip": True}
    return Subject(name, model, calibration, TensorDataset(*data("train", options.train)), test, recipe)


def of_sounds(name: str, options: Any) -> Subject:
    """A network of passive filter pruning, trained here on the sounds of `sounds.py`; the work folder keeps its weights."""
    make, shape, settings = _AUDIO[name]
    images, labels = (t for t in clips(options.clips, 0, **shape))
    heldout, truth = clips(options.heldout, 1, **shape)
    if name == "VGGish":  # which takes frames first
        images, heldout = images.transpose(2, 3).contiguous(), heldout.transpose(2, 3).contiguous()
    torch.manual_seed(0)
    model, train = make(), TensorDataset(images, labels)
    recipe = {"batch_size": 20, "optimizer": "adamw", "warmup_steps": 10, "epochs": options.dense_epochs, **settings}
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / f"{name}-{options.clips}-{options.dense_epochs}.safetensors"
    if file.exists():
        load_model(model, file)
    else:
        for part in model.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(part.weight)
                nn.init.zeros_(part.bias)
        model = fxprune.finetune(model.train(), train, precision=options.precision, progress=False, **recipe)
        save_model(model, file)
    few = min(options.images, len(images) // 2)
    recipe["lr"] = recipe["lr"] / 10
    return Subject(name, model.eval(), batches(images[:few], labels[:few], 50), train, batches(heldout, truth, 50), recipe)


def agreement(subject: Subject, ratio: Mapping[str, float], criterion: str) -> float:
    """Mean over the groups that `ratio` cuts of Spearman's correlation of the scores before and after most of the training."""
    assert subject.early is not None
    found = []
    for model in (subject.early, subject.model):
        example = subject.calibration[0][0][:2]
        plan = fxprune.plan(model, ratio, example, criterion=criterion, data=subject.calibration)
        found.append({group.id: group.scores for group in plan.groups if group.removed})
    early, late = found
    from scipy.stats import spearmanr  # takes a second

    values = [float(spearmanr(early[name], late[name]).statistic) for name in early]
    return sum(values) / len(values)
