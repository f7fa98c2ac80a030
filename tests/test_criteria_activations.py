"""Criteria that look at activations: against references in plain loops, and what must not change them."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.criteria.aura import aura_matrices, neighbourhood
from fxprune.criteria.entropy import counted, entropy, levels
from fxprune.criteria.reconstruction import _convolved, greedy_order
from fxprune.statistics import Maps, gather
from fxprune.statistics.site import Site

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
        return [np.mean([bits(p) for p in row]) for row in powers]
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


@pytest.mark.parametrize(
    "name",
    ["apoz", "hrank", "nuclear", "gap_entropy", "sfm", "sfm_softmax", "chip", "aura_entropy", "aura_mi", "hist_mi"],
)
def test_against_the_formula(name: str) -> None:
    model, batches = Net().eval(), data()
    options = {"corrected": False} if name in ("aura_mi", "hist_mi") else {}
    found = scored(name, model, batches, **options)
    assert found.tolist() == pytest.approx(brute_force(name, model, batches), rel=1e-4, abs=1e-6)


def test_wanda_is_weight_times_activation() -> None:
    model, batches = Net().eval(), data()
    norms = np.sqrt((maps_of(model, batches) ** 2).mean((0, 2, 3)))
    expected = model.second.weight.detach().abs().sum((0, 2, 3)).double().numpy() * norms
    assert scored("wanda", model, batches).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_wanda_of_a_flattened_map_weighs_each_position() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 4, 3))
    images = torch.randn(6, 1, 2, 2)
    maps = model[:3](images).detach().double()
    expected = (model[3].weight.detach().double().abs().sum(0) * maps.square().mean(0).sqrt()).view(2, 4).sum(1)
    assert scored("wanda", model, [(images, torch.zeros(6).long())]).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_hrel_against_its_definition() -> None:
    model, batches = Net().eval(), data()[:1]
    maps = maps_of(model, batches).reshape(5, 6, -1)
    labels = nn.functional.one_hot(batches[0][1], CLASSES).double().numpy()

    def squared(points: np.ndarray) -> np.ndarray:
        return ((points[:, None] - points[None]) ** 2).sum(-1)

    def entropy_of(kernel: np.ndarray) -> float:
        return bits(np.clip(np.linalg.eigvalsh(kernel / np.trace(kernel)), 1e-300, None))

    target = np.exp(-squared(labels) / 0.01)
    mean = np.mean([squared(maps[:, c]) for c in range(6)], 0)
    grid = [mean.mean() * 10 ** (2 * e) for e in np.linspace(-1, 1, 9)]
    width = max(grid, key=lambda w: (np.exp(-mean / w) * target).sum() / np.linalg.norm(np.exp(-mean / w)))
    expected = []
    for c in range(6):
        kernel = np.exp(-squared(maps[:, c]) / width)
        expected.append(entropy_of(kernel) + entropy_of(target) - entropy_of(kernel * target))
    assert scored("hrel", model, batches).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


# -- mutual information ----------------------------------------------------------------------------------------------------


def site(channels: int = 1) -> Site:
    return Site("g", "n", "n", 1, np.arange(channels)[:, None])


def informed(name: str, values: Tensor, labels: Tensor, **options: Any) -> float:
    """The score of one channel of maps ``[images, height, width]``."""
    made: Any = criteria.resolve(name, normalization="none", **options)
    maps = Maps(values[:, None, None], site(), labels, int(labels.max()) + 1, values.min()[None], values.max()[None])
    measure = getattr(made, "information", made.measure)  # of mutual information, what may be negative
    return float(measure({k: v.double() for k, v in made.observe(maps).items()})[0])


def textures(images: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    """White noise; noise that is smoother for half of the classes, with the same histogram; labels of 10 classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % 10
    noise = torch.randn(images, 16, 16, generator=generator)
    smooth = nn.functional.avg_pool2d(nn.functional.pad(noise[:, None], (1, 1, 1, 1), mode="circular"), 3, 1)[:, 0]
    smooth = (smooth - smooth.mean()) / smooth.std()
    return noise, torch.where((labels < 5)[:, None, None], smooth, noise), labels


def test_aura_mi_sees_texture_that_histograms_cannot() -> None:
    noise, textured, labels = textures()
    for view in (textured, textured.relu()):
        assert informed("aura_mi", view, labels) > 10 * abs(informed("hist_mi", view, labels))
        assert informed("aura_mi", view, labels) > 10 * abs(informed("aura_mi", noise, labels))
    assert informed("aura_entropy", textured, labels) < informed("aura_entropy", noise, labels)
    assert informed("aura_entropy", textured.relu(), labels) < informed("aura_entropy", textured, labels)


def test_noise_lowers_aura_mi() -> None:
    _, textured, labels = textures()
    noise = torch.randn(textured.shape, generator=torch.Generator().manual_seed(1))
    found = [informed("aura_mi", textured + s * noise, labels) for s in (0, 0.25, 0.5, 1.0)]
    assert found == sorted(found, reverse=True) and found[-1] > 0


@pytest.mark.parametrize("name", ["aura_mi", "hist_mi"])
@pytest.mark.parametrize("count", [4, 8, 16, 32])
def test_the_bias_is_that_of_shuffled_labels(name: str, count: int) -> None:
    noise, _, labels = textures(200)
    generator = torch.Generator().manual_seed(2)
    shuffled = [labels[torch.randperm(200, generator=generator)] for _ in range(12)]
    plain = np.mean([informed(name, noise, y, levels=count, corrected=False) for y in shuffled])
    left = np.mean([informed(name, noise, y, levels=count) for y in shuffled])
    assert plain > 0 and abs(left) < 0.15 * plain


def test_bias_grows_with_levels() -> None:
    noise, _, labels = textures()
    found = [informed("aura_mi", noise, labels, levels=q, corrected=False) for q in (4, 8, 16, 32)]
    assert found == sorted(found)


def test_independent_information_is_never_negative_before_correction() -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        values = torch.randn(30, 4, 4, generator=generator)
        labels = torch.randint(0, 4, (30,), generator=generator)
        for name in ("aura_mi", "hist_mi"):
            assert informed(name, values, labels, corrected=False) >= 0


def test_aura_mi_layer_sees_dependence() -> None:
    """Two linked channels share more than two unlinked ones."""
    made: Any = criteria.resolve("aura_mi_layer")
    one = torch.randint(0, 8, (400,))
    joint = torch.zeros(2, 1, 8, 8).double()
    for a, b, c in zip(one.tolist(), one.tolist(), torch.randint(0, 8, (400,)).tolist(), strict=True):
        joint[0, 0, a, b] += 1
        joint[1, 0, a, c] += 1
    linked, unlinked = made.measure({"joint": joint}).tolist()
    assert linked > 2.5 and unlinked < 0.1


# -- parts -----------------------------------------------------------------------------------------------------------------


def test_levels_and_entropy() -> None:
    values = torch.tensor([-5.0, 0.0, 0.24, 0.25, 0.99, 1.0, 9.0])
    assert levels(values, torch.tensor(0.0), torch.tensor(1.0), 4).tolist() == [0, 0, 0, 1, 3, 3, 3]
    assert levels(torch.full((3,), 2.0), torch.tensor(2.0), torch.tensor(2.0), 4).tolist() == [0, 0, 0]
    assert entropy(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])).tolist() == [2.0, 0.0, 0.0]
    assert counted(torch.tensor([[0, 2, 2], [1, 1, 1]]), 3).tolist() == [[1, 0, 2], [0, 3, 0]]


@pytest.mark.parametrize(("neighbours", "radius", "half"), [(4, 1, 2), (8, 1, 4), (4, 2, 6), (8, 2, 12)])
def test_neighbourhoods(neighbours: int, radius: int, half: int) -> None:
    offsets = neighbourhood(neighbours, radius)
    assert len(offsets) == half == len({*offsets, *((-y, -x) for y, x in offsets)}) // 2


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("radius", [1, 2])
def test_aura_matrix_against_its_definition(neighbours: int, radius: int) -> None:
    quantised = torch.randint(0, 3, (2, 2, 1, 4, 5))
    found = aura_matrices(quantised, 3, neighbourhood(neighbours, radius))
    for image in range(2):
        for channel in range(2):
            levels_of, matrix = quantised[image, channel, 0], torch.zeros(3, 3).double()
            for y, x in np.ndindex(4, 5):
                for v, u in np.ndindex(4, 5):
                    dy, dx = abs(y - v), abs(x - u)
                    near = max(dy, dx) <= radius if neighbours == 8 else dy + dx <= radius
                    if near and (dy or dx):
                        matrix[levels_of[y, x], levels_of[v, u]] += 1
            assert found[image, channel].tolist() == pytest.approx((matrix / matrix.sum()).ravel().tolist())


def test_maps_without_neighbours_use_their_histogram(caplog: pytest.LogCaptureFixture) -> None:
    values, labels = torch.arange(8.0)[:, None, None], torch.arange(8) % 2
    with caplog.at_level(logging.WARNING, "fxprune"):
        found = informed("aura_mi", values, labels, corrected=False)
    assert found == pytest.approx(informed("hist_mi", values, labels, corrected=False)) == pytest.approx(1.0)
    assert "no neighbours" in caplog.text


def test_greedy_removal_keeps_the_error_least() -> None:
    terms = torch.randn(50, 6).double()
    products = terms.T @ terms
    gone: list[int] = []
    for channel in greedy_order(products).tolist():
        errors = {c: float(terms[:, [*gone, c]].sum(1).square().sum()) for c in range(6) if c not in gone}
        assert channel == min(errors, key=errors.__getitem__)
        gone.append(channel)
    assert sorted(gone) == list(range(6))


@pytest.mark.parametrize(
    "consumer",
    [
        nn.Conv2d(4, 3, 3, stride=2, padding=1, dilation=1, bias=False),
        nn.Conv2d(4, 3, (1, 3), padding="same", bias=False),
    ],
)
def test_terms_of_a_convolution_add_up_to_its_output(consumer: nn.Conv2d) -> None:
    values = torch.randn(2, 4, 1, 7, 8)
    weight = consumer.weight.detach().transpose(0, 1).flatten(2)
    output = consumer(values[:, :, 0]).detach().flatten(1).T
    for _ in range(10):
        generator = torch.Generator().manual_seed(int(torch.randint(1000, ())))
        terms = _convolved(Maps(values, site(4), weight=weight, module=consumer), generator)
        assert (output - terms.sum(1)).abs().amax(1).min() < 1e-5


def test_reconstruction_keeps_what_the_next_layer_needs() -> None:
    model, batches = Net().eval(), data()
    with torch.no_grad():
        model.second.weight[:, 4] = 0
        model.second.weight[:, 1] *= 100
    found = scored("reconstruction", model, batches)
    assert int(found.argmin()) == 4 and int(found.argmax()) == 1
    assert sorted(found.tolist()) == pytest.approx([(i + 1) / 6 for i in range(6)])


# -- what must not change scores -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_permuting_channels_permutes_scores(name: str) -> None:
    model, batches, order = Net().eval(), data(), torch.randperm(6)
    with torch.no_grad():
        model.norm.bias.normal_()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.first.weight.copy_(model.first.weight[order])
        other.first.bias.copy_(model.first.bias[order])
        other.norm.bias.copy_(model.norm.bias[order])
        other.second.weight.copy_(model.second.weight[:, order])
    expected = scored(name, model, batches)[order]
    assert scored(name, other, batches).tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["hrank", "sfm", "apoz", "aura_entropy", "aura_mi", "hist_mi", "gap_entropy", "hrel"])
def test_scaling_a_network_changes_nothing(name: str) -> None:
    """Ranks, shares and entropies of normalised maps do not see a positive factor (a power of 2, so that bins stay)."""
    model, batches = Net().eval(), data()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.norm.weight.mul_(4)
        other.norm.bias.mul_(4)
    assert scored(name, other, batches).tolist() == pytest.approx(scored(name, model, batches).tolist(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_dead_channels_are_scored_lowest_and_finite(name: str) -> None:
    model, batches = Net().eval(), data()
    with torch.no_grad():
        model.norm.weight[2] = 0
        model.norm.bias[2] = -1
    found = scored(name, model, batches)
    assert torch.isfinite(found).all()
    if name != "sfm_softmax":  # this one prefers flat maps
        assert float(found[2]) <= float(found.min()) + 1e-6
    if name in ("apoz", "gap_entropy", "sfm", "hrank", "nuclear", "chip", "aura_entropy", "aura_mi", "hist_mi", "wanda"):
        assert float(found[2]) == pytest.approx(0, abs=1e-9)


def test_sites_of_one_group_are_reduced() -> None:
    class Residual(Net):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x)).relu()
            x = (x + self.inner(x)).relu()
            return self.head(self.second(x).relu().mean((2, 3)))

    model, batches = Residual().eval(), data()
    first, mean, whole = (scored("nuclear", model, batches, reduction=r) for r in ("first", "mean", "sum"))
    assert torch.allclose(first, torch.tensor(brute_force("nuclear", model, batches)).double(), rtol=1e-4)
    assert torch.allclose(whole, 2 * mean) and not torch.allclose(mean, first)
