"""`Analysis.cut`: what remains of axes, tensors and costs when channels go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import NETWORKS
from torch import Tensor, nn

import fxprune
from fxprune.analysis.analysis import Analysis
from fxprune.errors import InputError


class Chain(nn.Module):
    """A convolution of 8 channels on 6 x 6, a norm, a pooled and flattened map (2 x 2), a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc, self.head = nn.Linear(32, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.norm(self.conv(x)).relu(), 2).flatten(1)
        return self.head(self.fc(x).relu())


@pytest.fixture
def analysis() -> Analysis:
    return fxprune.analyze(Chain(), torch.zeros(3, 3, 6, 6))


def axis_of(analysis: Analysis, name: str, number: int):
    return analysis.traced.mode.axes(analysis.traced.tensors[name])[number]


GONE = {"conv.weight": [1, 2, 7], "fc.weight": [0]}


def test_of_nothing_gone_everything_remains(analysis: Analysis) -> None:
    cut = analysis.cut()
    axis = axis_of(analysis, "conv.weight", 0)
    assert cut.kept(axis) is None and cut.size(axis) == 8 and cut.below(axis, 5) == 5
    assert cut.tensors == {}
    assert cut.params == analysis.params() == sum(p.numel() for p in Chain().parameters())


def test_sizes_follow_the_channels_that_remain(analysis: Analysis) -> None:
    cut = analysis.cut(GONE)
    axes = analysis.traced.mode.axes(analysis.traced.tensors["conv.weight"])
    assert cut.kept(axes[0]).tolist() == [0, 3, 4, 5, 6]
    assert cut.kept(axes[1]) is None
    assert cut.shape(axes) == (5, 3, 3, 3)
    assert [cut.below(axes[0], k) for k in (0, 1, 3, 8)] == [0, 1, 1, 5]


def test_every_tensor_that_holds_a_channel_is_sliced(analysis: Analysis) -> None:
    found = analysis.cut({"conv.weight": [1, 2, 7]}).tensors
    five = [0, 3, 4, 5, 6]
    names = ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
    assert {name: {a: kept.tolist() for a, kept in found[name].items()} for name in names} == {
        name: {0: five} for name in names
    }
    assert found["fc.weight"][1].tolist() == [4 * c + k for c in five for k in range(4)]
    assert found.keys() == {*names, "fc.weight"}  # and no other: not the head, not the count of batches


@pytest.mark.parametrize(
    ("gone", "wide", "narrow"),
    [({}, 8, 5), ({"conv.weight": [0]}, 7, 5), ({"fc.weight": [3, 4]}, 8, 3), (GONE, 5, 4)],
    ids=["nothing", "the convolution", "the linear layer", "both"],
)
def test_costs_are_those_of_the_smaller_layers(analysis: Analysis, gone: dict[str, list[int]], wide: int, narrow: int) -> None:
    cut = analysis.cut(gone)
    assert cut.macs == 36 * 27 * wide + 4 * wide * narrow + narrow * 2
    assert cut.total_macs == 3 * cut.macs  # a batch of three
    assert cut.params == 27 * wide + wide + 2 * wide + 4 * wide * narrow + narrow + narrow * 2 + 2


def test_costs_are_those_that_the_report_tells(analysis: Analysis) -> None:
    slim = fxprune.prune(Chain(), 0.5, torch.zeros(3, 3, 6, 6))
    plan = slim.meta["fxprune"].plan
    cut = analysis.cut({g.id: g.removed for g in plan.groups if g.removed})
    assert (analysis.macs(), cut.macs) == tuple(plan.macs)
    assert cut.params == sum(p.numel() for p in slim.parameters())


def test_groups_of_an_axis_are_those_that_lose_channels_there(analysis: Analysis) -> None:
    cut = analysis.cut({"conv.weight": [1]})
    assert cut.groups_at([axis_of(analysis, "norm.weight", 0)]) == ["conv.weight"]
    assert cut.groups_at([axis_of(analysis, "fc.weight", 0), axis_of(analysis, "head.weight", 0)]) == []
    assert analysis.cut().groups_at([axis_of(analysis, "conv.weight", 0)]) == []


def test_a_head_and_a_dimension_go_from_the_axis_that_both_make_up() -> None:
    net = NETWORKS["fused qkv"]
    analysis = fxprune.analyze(net.build(), net.inputs(2), attention="both")
    heads, dims = sorted((g for g in analysis.free if g.id.startswith("qkv")), key=lambda g: g.size)
    cut = analysis.cut({heads.id: [1], dims.id: [0, 3]})
    axis = axis_of(analysis, "qkv.weight", 0)  # 3 x 3 heads of 4
    kept = np.arange(36).reshape(3, 3, 4)[:, [0, 2]][:, :, [1, 2]].ravel()
    assert cut.kept(axis).tolist() == kept.tolist()
    assert set(cut.groups_at([axis])) == {heads.id, dims.id}


def test_a_group_that_may_not_lose_channels_cannot_be_cut(analysis: Analysis) -> None:
    frozen = next(g for g in analysis.groups if g.status == "frozen")
    with pytest.raises(InputError, match=r"no branch or group .* that may go"):
        analysis.cut({frozen.id: [0]})
