"""Criteria on the scales of norms, on operator norms, on distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import spearmanr
from support.weights import one_member, scores
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.analysis.groups import Group
from fxprune.criteria.distances import geometric_median, pairwise_distances

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
