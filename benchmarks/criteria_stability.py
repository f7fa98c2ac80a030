"""How much the ranking of a layer's channels changes with the images that a criterion sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from criteria_cost import Row, Task, score
from criteria_data import Cifar, batches
from torch import Tensor, nn

import fxprune

__all__ = ["STABILITY", "stability_tasks"]

STABILITY = ("aura_mi", "hist_mi", "hrel", "aura_entropy", "sfm", "hrank", "taylor")
_NOISE = (0.1, 0.25, 0.5)  # standard deviations of the normalised images


def stability_tasks(network: str, model: nn.Module, data: Cifar, names: list[str], images: int) -> Iterator[tuple[Row, Task]]:
    """Heads of rows, and what prepares the measurement of each."""

    def prepared(name: str) -> Callable[[], list[Row]]:
        return partial(_measured, name, model, *data("train", images))

    for name in names:
        head = {"part": "stability", "network": network, "criterion": name, "images": images}
        yield head, partial(prepared, name)


def _measured(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> list[Row]:
    analysis = fxprune.analyze(model, images[:2])

    def scored(values: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return score(name, model, analysis, batches(values, targets))

    half = len(images) // 2
    one, other = scored(images[:half], labels[:half]), scored(images[half:], labels[half:])
    rows = [_compared("one half, the other half", one, other)]
    clean = scored(images, labels)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return rows + [_compared(f"clean, noise of {level}", clean, scored(images + level * noise, labels)) for level in _NOISE]


def _compared(what: str, one: dict[str, Tensor], other: dict[str, Tensor]) -> Row:
    """Spearman's rank correlation in each group; a group without any order (all scores equal) on one side counts as 0."""
    found = [_correlation(one[group], other[group]) for group in one]
    return {"between": what, "mean": sum(found) / len(found), "least": min(found)}


def _correlation(one: Tensor, other: Tensor) -> float:
    if not float(one.std()) or not float(other.std()):
        return 0.0
    from scipy.stats import spearmanr  # takes a second

    return float(spearmanr(one, other).statistic)
