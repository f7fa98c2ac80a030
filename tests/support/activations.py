"""A network of two convolutions, and criteria on its maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.statistics import Maps, gather
from fxprune.statistics.spot import Spot

NAMES = [
    "apoz",
    "gap_entropy",
    "sfm",
    "sfm_softmax",
    "hrank",
    "nuclear",
    "chip",
    "aura_entropy",
    "aura_mi",
    "aura_mi_layer",
    "hist_mi",
    "hrel",
    "reconstruction",
    "surgeon",
    "wanda",
]
IMAGES, CLASSES = 12, 3


class Net(nn.Module):
    """Maps of 6 channels after a ReLU, then of 5."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.head = nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.head(self.second(x).relu().mean((2, 3)))


def data() -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(IMAGES) % CLASSES
    images = torch.randn(IMAGES, 3, 8, 8) + labels[:, None, None, None]
    return [(images[:5], labels[:5]), (images[5:], labels[5:])]


def maps_of(model: Net, batches: list[tuple[Tensor, Tensor]]) -> np.ndarray:
    """The maps ``[images, 6, 8, 8]`` that a criterion sees of the first group."""
    with torch.no_grad():
        return torch.cat([model.norm(model.first(x)).relu() for x, _ in batches]).double().numpy()


def scored(name: str, model: nn.Module, batches: Any, **options: Any) -> Tensor:
    options.setdefault("normalization", "none")
    made = criteria.resolve(name, **options)
    analysis = fxprune.analyze(model, batches[0][0])
    gather(model, analysis, [made], batches)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return made(analysis.free[0], tensors)


def bits(weights: Any) -> float:
    p = np.asarray(weights, float).ravel()
    p = p[p > 0] / p.sum()
    return float(-(p * np.log2(p)).sum())


def quantised(values: np.ndarray, count: int) -> np.ndarray:
    """Levels by channel over all images."""
    low, high = values.min((0, 2, 3), keepdims=True), values.max((0, 2, 3), keepdims=True)
    return np.clip(np.floor((values - low) / np.where(high > low, high - low, 1) * count), 0, count - 1).astype(int)


def aura(levels: np.ndarray, count: int) -> np.ndarray:
    """The aura matrix of one map, by its definition."""
    matrix = np.zeros((count, count))
    height, width = levels.shape
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    matrix[levels[y, x], levels[y + dy, x + dx]] += 1
    return matrix / matrix.sum()


def information(patterns: np.ndarray, labels: np.ndarray) -> float:
    """``H(mean) - sum p(y) H(mean given y)`` of ``[images, cells]``."""
    shares = [(labels == y).mean() * bits(patterns[labels == y].mean(0)) for y in np.unique(labels)]
    return bits(patterns.mean(0)) - sum(shares)


def nuclear(matrix: np.ndarray) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def brute_force(name: str, model: Net, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    maps = maps_of(model, batches)
    labels = torch.cat([y for _, y in batches]).numpy()
    channels = range(maps.shape[1])
    if name == "apoz":
        return [(maps[:, c] != 0).mean() for c in channels]
    if name == "hrank":
        return [np.mean([np.linalg.matrix_rank(m.astype(np.float32)) for m in maps[:, c]]) for c in channels]
    if name == "nuclear":
        return [np.mean([nuclear(m) for m in maps[:, c]]) for c in channels]
    if name == "gap_entropy":
        gap = maps.mean((2, 3))
        return [bits(np.histogram(gap[:, c], 100)[0]) for c in channels]
    if name == "sfm":
        return [np.mean([bits(np.histogram(m, 256)[0]) if m.any() else 0.0 for m in maps[:, c]]) for c in channels]
    if name == "sfm_softmax":
        with torch.no_grad():
            before = torch.cat([model.norm(model.first(x)) for x, _ in batches]).double().numpy()
        powers = [[np.exp((m - m.mean()) ** 2) for m in before[:, c]] for c in channels]
        return [np.mean([6 - bits(p) for p in row]) for row in powers]  # maps are 8 x 8
    if name == "chip":
        result = np.zeros(maps.shape[1])
        for image in maps.reshape(len(maps), maps.shape[1], -1):
            for c in channels:
                without = image.copy()
                without[c] = 0
                result[c] += nuclear(image) - nuclear(without)
        return (result / len(maps)).tolist()
    found = quantised(maps, 8)
    if name == "aura_entropy":
        return [np.mean([bits(aura(m, 8)) for m in found[:, c]]) for c in channels]
    if name == "aura_mi":
        return [information(np.stack([aura(m, 8).ravel() for m in found[:, c]]), labels) for c in channels]
    assert name == "hist_mi"
    histograms = [np.stack([np.bincount(m.ravel(), minlength=8) / m.size for m in found[:, c]]) for c in channels]
    return [information(h, labels) for h in histograms]


def site(channels: int = 1) -> Spot:
    return Spot("g", "n", "n", 1, np.arange(channels)[:, None])


def informed(name: str, values: Tensor, labels: Tensor, **options: Any) -> float:
    """The score of one channel of maps ``[images, height, width]``."""
    made: Any = criteria.resolve(name, normalization="none", **options)
    maps = Maps(values[:, None, None], site(), labels, int(labels.max()) + 1, values.min()[None], values.max()[None])
    measure = getattr(made, "information", made.measure)  # of mutual information, what may be negative
    return float(measure({k: v.double() for k, v in made.observe(maps).items()})[0])
