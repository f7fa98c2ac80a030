"""Criteria on weights against their formulas, and the shapes that they read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.weights import one_member, scores
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.analysis.groups import Member
from fxprune.statistics.weights import channel_weights

FILTERWISE = ["l1", "l2", "fpgm", "fermat", "whc", "operator_norm", "lamp"]


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
