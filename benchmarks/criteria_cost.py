"""How long criteria take to score a network, forward passes included; on random weights and images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from criteria_data import Batches, batches
from models import VGG16BN, DCASE21Net, VGGish
from torch import nn

import fxprune
from fxprune import criteria
from fxprune.analysis.analysis import Analysis
from fxprune.state import named_tensors

__all__ = ["COST", "Row", "Task", "cost_tasks", "reads_data", "score"]

Row = dict[str, Any]
Task = Callable[[], Callable[[], list[Row]]]  # prepares here, and returns what is measured in a child


@dataclass(frozen=True)
class Network:
    """A network of the cost benchmark: what makes it, and the shape of an image."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


def _resnet50() -> nn.Module:
    from torchvision.models import resnet50

    return resnet50()


COST = {
    "vgg16bn": Network(VGG16BN, (3, 32, 32)),
    "resnet50": Network(_resnet50, (3, 64, 64)),
    "vggish": Network(VGGish, (1, 96, 64)),
    "dcase21": Network(DCASE21Net, (1, 40, 500)),
}
_BATCH = 100  # as HRel, whose cost depends on it


def cost_tasks(network: str, names: list[str], images: list[int]) -> Iterator[tuple[Row, Task]]:
    """Heads of rows, and what prepares the measurement of each."""
    for name in names:
        for count in sorted(images) if reads_data(name) else [0]:
            head = {"part": "cost", "network": network, "criterion": name, "images": count}
            yield head, partial(_prepared, network, name, count)


def reads_data(name: str) -> bool:
    """Whether a criterion needs images."""
    return bool(getattr(criteria.resolve(name), "needs_data", False))


def score(name: str, model: nn.Module, analysis: Analysis, data: Batches | None) -> dict[str, Any]:
    """Scores of every group that may be pruned, by its id."""
    criterion = criteria.resolve(name)
    criteria.prepare(criterion, model, analysis, data)
    tensors = named_tensors(model)
    with torch.no_grad():
        return {group.id: criterion(group, tensors) for group in analysis.free}


def _prepared(network: str, name: str, images: int) -> Callable[[], list[Row]]:
    model, analysis = _made(network)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(max(images, 1), *COST[network].shape, generator=generator)
    labels = torch.arange(len(values)) % 10
    return partial(_timed, name, model, analysis, batches(values, labels, _BATCH) if images else None)


@lru_cache(maxsize=1)
def _made(network: str) -> tuple[nn.Module, Analysis]:
    torch.manual_seed(0)
    model = COST[network].make().eval()
    inputs = torch.zeros(2, *COST[network].shape)
    with torch.no_grad():
        model(inputs)  # what PyTorch sets up on first use is not timed
    return model, fxprune.analyze(model, inputs)


def _timed(name: str, model: nn.Module, analysis: Analysis, data: Batches | None) -> list[Row]:
    start = time.process_time()
    score(name, model, analysis, data)
    return [{"seconds": round(time.process_time() - start, 4)}]
