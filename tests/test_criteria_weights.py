"""Criteria that read weights: against references in plain loops, closed forms, and what must not change them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import spearmanr
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.analysis.groups import Group, Member
from fxprune.criteria.distances import geometric_median, pairwise_distances
from fxprune.criteria.weights import channel_weights

FILTERWISE = ["l1", "l2", "fpgm", "fermat", "whc", "operator_norm", "lamp"]


def one_member(weight: Tensor, axis: int = 0, copies: int = 1) -> tuple[Group, dict[str, Tensor]]:
    channels = weight.shape[axis] // copies
    indices = np.arange(channels * copies).reshape(channels, copies)
    return Group("w", channels, (Member("w", axis, indices, "producer"),)), {"w": weight}


def scores(name: str, weight: Tensor, axis: int = 0, copies: int = 1, **options: Any) -> Tensor:
    options.setdefault("normalization", "none")
    return criteria.resolve(name, **options)(*one_member(weight, axis, copies))


def brute_force(name: str, weight: Tensor) -> list[float]:
    """Scores of ``[N, C, K]`` weights, written as the formulas are."""
    filters = [f.flatten().double().numpy() for f in weight]
    norm = np.linalg.norm
    if name == "l1":
        return [np.abs(f).sum() for f in filters]
    if name == "l2":
        return [norm(f) for f in filters]
    if name == "fpgm":
        return [sum(norm(f - g) for g in filters) for f in filters]
    if name == "fermat":
        here = np.mean(filters, 0)
        for _ in range(2000):
            pull = [1 / norm(f - here) for f in filters]
            here = sum(p * f for p, f in zip(pull, filters, strict=True)) / sum(pull)
        return [norm(f - here) for f in filters]
    if name == "whc":
        result = []
        for i, f in enumerate(filters):
            others = (g for j, g in enumerate(filters) if j != i)
            result.append(norm(f) * sum(norm(g) * (1 - abs(f @ g / norm(f) / norm(g))) for g in others))
        return result
    if name == "lamp":
        squares = [norm(f) ** 2 for f in filters]
        return [s / sum(t for t in squares if t >= s) for s in squares]
    assert name == "operator_norm"
    result = [0.0] * len(weight)
    for row in range(weight.shape[1]):
        matrix = weight[:, row].double().numpy()
        matrix = matrix - matrix.mean(0)
        top = np.linalg.svd(matrix, full_matrices=False)[2][0]
        for i in range(len(weight)):
            result[i] += float(matrix[i] @ top) ** 2
    return result


@pytest.mark.parametrize("name", FILTERWISE)
@pytest.mark.parametrize("shape", [(5, 3, 4), (6, 1, 9), (4, 7, 1)], ids=["conv", "depthwise", "linear"])
def test_against_the_formula(name: str, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    assert scores(name, weight).tolist() == pytest.approx(brute_force(name, weight), rel=1e-5)


@pytest.mark.parametrize("name", FILTERWISE)
def test_permuting_filters_permutes_scores(name: str) -> None:
    weight, order = torch.randn(8, 3, 3, 3), torch.randperm(8)
    assert scores(name, weight[order]).tolist() == pytest.approx(scores(name, weight)[order].tolist(), rel=1e-6)


@pytest.mark.parametrize("name", FILTERWISE)
def test_permuting_inputs_or_flipping_signs_changes_nothing(name: str) -> None:
    weight = torch.randn(8, 5, 3, 3)
    expected = scores(name, weight).tolist()
    assert scores(name, weight[:, torch.randperm(5)]).tolist() == pytest.approx(expected, rel=1e-5)
    assert scores(name, -weight).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", [n for n in FILTERWISE if n != "lamp"])
def test_normalised_scores_do_not_depend_on_scale(name: str) -> None:
    weight = torch.randn(8, 5, 3, 3)
    one, other = (scores(name, w, normalization="mean").tolist() for w in (weight, 7 * weight))
    assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("name", ["fpgm", "fermat", "operator_norm"])
def test_distances_do_not_see_a_common_shift(name: str) -> None:
    weight, shift = torch.randn(8, 5, 3, 3), torch.randn(1, 5, 3, 3)
    assert scores(name, weight + shift).tolist() == pytest.approx(scores(name, weight).tolist(), rel=1e-4)


@pytest.mark.parametrize("name", ["l2", "fpgm", "fermat", "whc"])
def test_rotations_change_nothing(name: str) -> None:
    weight = torch.randn(8, 45)
    rotation, _ = torch.linalg.qr(torch.randn(45, 45))
    assert scores(name, weight @ rotation).tolist() == pytest.approx(scores(name, weight).tolist(), rel=1e-4)


@pytest.mark.parametrize("name", [*FILTERWISE, "operator_norm_compat"])
@pytest.mark.parametrize("weight", [torch.zeros(4, 3, 3, 3), torch.ones(4, 3, 3, 3)], ids=["zeros", "equal"])
def test_degenerate_weights_give_equal_finite_scores(name: str, weight: Tensor) -> None:
    found = criteria.resolve(name)(*one_member(weight))
    assert torch.isfinite(found).all() and found.tolist() == pytest.approx([float(found[0])] * 4)


# -- shapes of members -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis", "copies", "expected"),
    [
        ((6, 4, 3, 3), 0, 1, (6, 4, 9)),
        ((6, 4, 3, 3), 1, 1, (4, 6, 9)),
        ((6, 1, 3, 3), 0, 1, (6, 1, 9)),
        ((4, 6, 2, 2), 1, 1, (6, 4, 4)),
        ((5, 12), 1, 4, (3, 20, 1)),
        ((12, 5), 0, 3, (4, 15, 1)),
        ((6, 4, 5), 0, 1, (6, 4, 5)),
        ((6,), 0, 1, (6, 1, 1)),
        ((2, 3, 4, 5, 6), 0, 1, (2, 3, 120)),
    ],
    ids=["conv", "input", "depthwise", "transposed", "flattened", "heads", "conv1d", "vector", "conv3d"],
)
def test_weights_by_channel(shape: tuple[int, ...], axis: int, copies: int, expected: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    group, _ = one_member(weight, axis, copies)
    member = group.members[0]
    found = channel_weights(weight, member)
    assert found.shape == expected
    moved = weight.movedim(axis, 0)
    for channel, entries in enumerate(member.indices):
        rows = torch.stack([moved[e].reshape(moved.shape[1] if moved.dim() > 1 else 1, -1) for e in entries])
        assert torch.equal(found[channel], rows.flatten(0, 1))


def test_scattered_entries() -> None:
    weight = torch.randn(6, 4)
    member = Member("w", 0, np.array([[0, 3], [5, 2]]), "producer")
    assert torch.equal(channel_weights(weight, member)[1, :, 0], torch.cat([weight[5], weight[2]]))


class Everything(nn.Module):
    """Grouped, depthwise, transposed and linear layers, norms, a residual sum and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4 * 16 * 16, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.grouped(self.depthwise(x).relu())
        return self.last(self.head(self.up(x).relu().flatten(1)).relu())


@pytest.mark.parametrize("name", [*FILTERWISE, "operator_norm_compat", "bn_scale", "bn_relu", "cpmc", "random"])
@pytest.mark.parametrize("consumers", [False, True])
def test_every_kind_of_layer_is_scored(name: str, consumers: bool) -> None:
    model = Everything()
    analysis = fxprune.analyze(model, torch.randn(2, 3, 8, 8))
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    made = criteria.resolve(name, consumers=consumers)
    criteria.prepare(made, model, analysis)
    assert len(analysis.free) >= 3
    for group in analysis.free:
        found = made(group, tensors)
        assert found.shape == (group.size,) and torch.isfinite(found).all()


# -- norms -----------------------------------------------------------------------------------------------------------------


def with_norm(norm: nn.Module, head: nn.Module | None = None) -> tuple[Group, dict[str, Tensor]]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, head or nn.ReLU(), nn.Conv2d(4, 2, 1))
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    analysis = fxprune.analyze(model, torch.randn(2, 3, 8, 8))
    return analysis.free[0], dict(model.named_parameters()) | dict(model.named_buffers())


def test_bn_scale_is_the_scale() -> None:
    group, tensors = with_norm(nn.BatchNorm2d(4))
    found = criteria.resolve("bn_scale", normalization="none")(group, tensors)
    assert found.tolist() == pytest.approx(tensors["1.weight"].abs().tolist())


def test_bn_scale_reads_other_norms_but_no_slopes() -> None:
    group, tensors = with_norm(nn.GroupNorm(1, 4))
    assert criteria.resolve("bn_scale", normalization="none")(group, tensors).tolist() == pytest.approx(
        tensors["1.weight"].abs().tolist()
    )
    group, tensors = with_norm(nn.PReLU(4))
    found = criteria.resolve("bn_scale")(group, tensors)
    assert torch.equal(found, criteria.resolve("l2")(group, tensors))


def test_bn_scale_ignores_slopes_beside_a_norm() -> None:
    group, tensors = with_norm(nn.BatchNorm2d(4), nn.PReLU(4))
    found = criteria.resolve("bn_scale", normalization="none")(group, tensors)
    assert found.tolist() == pytest.approx(tensors["1.weight"].abs().tolist())


def test_a_norm_without_scale_falls_back() -> None:
    group, tensors = with_norm(nn.BatchNorm2d(4, affine=False))
    for name in ("bn_scale", "bn_relu"):
        found = criteria.resolve(name, normalization="max")(group, tensors)
        assert torch.equal(found, criteria.resolve("l2", normalization="max")(group, tensors))


def test_bn_relu_is_the_probability_to_exceed_tau() -> None:
    group, tensors = with_norm(nn.BatchNorm2d(4))
    scale, shift = tensors["1.weight"].detach().double().numpy(), tensors["1.bias"].detach().double().numpy()
    expected = 1 - ndtr((0.05 - shift) / (np.abs(scale) + 1e-8))
    assert criteria.resolve("bn_relu")(group, tensors).tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    draws = torch.randn(4, 20000, generator=torch.Generator().manual_seed(0)).double() * torch.tensor(scale)[:, None]
    share = (draws + torch.tensor(shift)[:, None] > 0.05).double().mean(1)
    assert share.tolist() == pytest.approx(expected.tolist(), abs=0.02)


# -- operator norm ---------------------------------------------------------------------------------------------------------


def published_operator_norm(weight: Tensor) -> list[float]:
    """The steps of the authors' script, in numpy: centre, rank-one part, its first row, inner products."""
    total = np.zeros(len(weight))
    for row in range(weight.shape[1]):
        matrix = weight[:, row].double().numpy()
        matrix = matrix - matrix.mean(0)
        u, _, v = np.linalg.svd(matrix, full_matrices=False)
        direction = np.outer(u[:, 0], v[0])[0]
        direction = direction / np.linalg.norm(direction)
        total += matrix @ direction
    return (total**2 / (total**2).max()).tolist()


@pytest.mark.parametrize("shape", [(6, 4, 9), (5, 3, 1)])
def test_compat_is_what_was_published(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    found = criteria.resolve("operator_norm_compat")(*one_member(weight))
    assert found.tolist() == pytest.approx(published_operator_norm(weight), rel=1e-5)


def test_compat_favours_filter_0_and_the_default_does_not() -> None:
    first = {"operator_norm": 0, "operator_norm_compat": 0}
    for _ in range(40):
        weight = torch.randn(64, 32, 9)
        for name in first:
            first[name] += int(scores(name, weight).argmax()) == 0
    assert first["operator_norm_compat"] >= 36 and first["operator_norm"] <= 4


def test_compat_depends_on_the_order_of_filters() -> None:
    weight, order = torch.randn(64, 32, 9), torch.randperm(64)
    before, after = scores("operator_norm_compat", weight)[order], scores("operator_norm_compat", weight[order])
    assert abs(spearmanr(before, after).statistic) < 0.5


def test_operator_norm_of_1x1_kernels_is_the_centred_norm() -> None:
    weight = torch.randn(8, 5)
    expected = (weight - weight.mean(0)).square().sum(1)
    assert scores("operator_norm", weight).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_operator_norm_weighted_by_its_square() -> None:
    weight = torch.randn(6, 1, 9)
    strength = torch.linalg.matrix_norm((weight - weight.mean(0))[:, 0].double(), 2).item() ** 2
    plain, weighted = scores("operator_norm", weight), scores("operator_norm", weight, weighted=True)
    assert weighted.tolist() == pytest.approx((plain * strength).tolist(), rel=1e-5)


def test_operator_norm_is_close_to_neither() -> None:
    """On random weights its rank correlation with the published score is low, and middling with l2."""
    pairs = []
    for _ in range(10):
        weight = torch.randn(64, 32, 9)
        mine = scores("operator_norm", weight)
        others = (scores(n, weight) for n in ("operator_norm_compat", "l2"))
        pairs.append([spearmanr(mine, other).statistic for other in others])
    compat, l2 = np.mean(pairs, 0)
    assert 0 < compat < 0.3 and 0.3 < l2 < 0.7


# -- distances -------------------------------------------------------------------------------------------------------------


def test_geometric_median_of_known_configurations() -> None:
    square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).double()
    assert geometric_median(square).tolist() == pytest.approx([0.5, 0.5])
    heavy = torch.tensor([[0.0], [0.0], [0.0], [9.0]]).double()  # the median, not the mean
    assert geometric_median(heavy).tolist() == pytest.approx([0.0], abs=1e-6)
    star = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double()  # starts on a point
    assert geometric_median(star).tolist() == pytest.approx([0.0, 0.0], abs=1e-9)
    assert geometric_median(torch.ones(3, 2).double()).tolist() == [1.0, 1.0]


def test_distances_of_equal_rows_are_zero_up_to_rounding() -> None:
    points = torch.randn(1, 300).repeat(4, 1)
    assert float(pairwise_distances(points).max()) < 1e-6


# -- lamp and cpmc ---------------------------------------------------------------------------------------------------------


def test_lamp_of_equal_channels_is_shared() -> None:
    assert scores("lamp", torch.tensor([[1.0], [1.0], [2.0]])).tolist() == pytest.approx([1 / 6, 1 / 6, 1.0])


def test_cpmc_counts_what_goes() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    analysis = fxprune.analyze(model, torch.randn(1, 3))
    tensors = dict(model.named_parameters())
    made = criteria.resolve("cpmc", parameters=2.0, macs=3.0)
    criteria.prepare(made, model, analysis)
    w = [model[i].weight.detach().double().abs() for i in (0, 2, 4)]
    magnitudes = [w[0].sum(1) + w[1].sum(0), w[1].sum(1) + w[2].sum(0)]
    params, macs = [3 + 1 + 5, 4 + 1 + 2], [3 + 5, 4 + 2]
    top = max(float(m.max()) for m in magnitudes)
    for group, magnitude, p, m in zip(analysis.free, magnitudes, params, macs, strict=True):
        expected = magnitude / top / (2 * p / max(params) + 3 * m / max(macs))
        assert made(group, tensors).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_cpmc_adds_scale_and_shift_of_norms() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    analysis = fxprune.analyze(model, torch.randn(1, 3, 4, 4))
    made = criteria.resolve("cpmc", normalization="max")
    criteria.prepare(made, model, analysis)
    found = made(analysis.free[0], dict(model.named_parameters()) | dict(model.named_buffers()))
    total = model[0].weight.abs().sum((1, 2, 3)) + model[3].weight.abs().sum((0, 2, 3))
    total = total + model[1].weight.abs() + model[1].bias.abs()
    assert found.tolist() == pytest.approx((total / total.max()).tolist(), rel=1e-6)


def test_random_depends_on_the_seed_and_the_group_alone() -> None:
    group, tensors = one_member(torch.randn(5, 2))
    one, same, other = (criteria.resolve("random", seed=s)(group, tensors) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


# -- closed forms for Gaussian filters -------------------------------------------------------------------------------------


def gaussian_filters(count: int, size: int, draws: int) -> list[dict[str, np.ndarray]]:
    found = []
    for _ in range(draws):
        weight = torch.randn(count, size)
        found.append({n: scores(n, weight).numpy() for n in ("l1", "l2", "fermat", "fpgm")})
    return found


@pytest.mark.parametrize(
    ("count", "size", "draws", "spearman", "variation"),
    [
        (16, 27, 60, (0.92, 0.90, 0.995), (14.6, 13.7, 14.2, 6.6)),
        (64, 576, 20, (0.93, 0.98, 1.00), (3.3, 3.1, 3.1, 1.5)),
        (256, 2304, 3, (0.93, 0.996, 1.00), (1.6, 1.5, 1.5, 0.74)),
    ],
)
def test_both_blind_spots_follow_from_gaussian_filters(
    count: int, size: int, draws: int, spearman: tuple[float, ...], variation: tuple[float, ...]
) -> None:
    """Rank correlations above 0.9, and scores within about 1 % of each other in wide layers."""
    found = gaussian_filters(count, size, draws)
    pairs = (("l1", "l2"), ("l2", "fermat"), ("fermat", "fpgm"))
    for (a, b), expected in zip(pairs, spearman, strict=True):
        assert np.mean([spearmanr(f[a], f[b]).statistic for f in found]) == pytest.approx(expected, abs=0.02)
    for name, expected in zip(("l1", "l2", "fermat", "fpgm"), variation, strict=True):
        assert np.mean([100 * f[name].std(ddof=1) / f[name].mean() for f in found]) == pytest.approx(expected, rel=0.12)


def test_closed_forms_of_the_norms() -> None:
    size = 512
    weight = torch.randn(4000, size)
    l1, l2 = scores("l1", weight).numpy(), scores("l2", weight).numpy()
    correlation = math.sqrt(2 / math.pi) / math.sqrt(2 * (1 - 2 / math.pi))
    assert np.corrcoef(l1, l2**2)[0, 1] == pytest.approx(correlation, abs=0.01)
    assert l1.std() / l1.mean() == pytest.approx(math.sqrt((math.pi / 2 - 1) / size), rel=0.05)
    assert l2.std() / l2.mean() == pytest.approx(1 / math.sqrt(2 * size), rel=0.05)


def test_globally_l1_grows_with_width_and_l2_does_not() -> None:
    """With He-scaled weights, so a global ranking by l1 empties narrow layers first."""
    sizes = (144, 2304)
    l1, l2 = ([float(scores(n, torch.randn(64, s) * (2 / s) ** 0.5).mean()) for s in sizes] for n in ("l1", "l2"))
    assert l1[1] / l1[0] == pytest.approx(math.sqrt(sizes[1] / sizes[0]), rel=0.05)
    assert l2[1] / l2[0] == pytest.approx(1.0, rel=0.05)
