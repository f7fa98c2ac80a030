"""Leaf modules as calls of their constructors."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from support.codegen import Custom, assert_equal_bits, forward_text, graph_of
from torch import nn

from fxprune.codegen import source_of
from fxprune.codegen.leaves import leaf
from fxprune.codegen.names import Names
from fxprune.errors import PruneError


def _dilated_later() -> nn.Module:
    module = nn.Conv2d(4, 8, 3, stride=2, padding=1)
    module.stride, module.padding, module.dilation = (1, 1), (2, 2), (2, 2)  # as encoders of segmentation do
    return module


LEAVES = {
    "nn.Conv2d(4, 8, 3, padding=2, dilation=2)": _dilated_later(),
    "nn.Conv2d(3, 8, 3, padding=1, bias=False)": None,
    "nn.Conv2d(4, 8, (3, 1), stride=(2, 1), padding=(1, 0), dilation=2, groups=4)": None,
    'nn.Conv2d(3, 8, 3, padding="same")': None,
    'nn.Conv1d(3, 8, 3, padding=1, padding_mode="circular")': None,
    "nn.Conv3d(3, 8, (1, 3, 3))": None,
    "nn.ConvTranspose2d(4, 8, 3, stride=2, output_padding=1, groups=2)": None,
    "nn.BatchNorm2d(8, eps=0.001, momentum=None)": None,
    "nn.BatchNorm1d(8, affine=False)": None,
    "nn.BatchNorm2d(8, track_running_stats=False)": None,
    "nn.SyncBatchNorm(8)": None,
    "nn.InstanceNorm2d(8, affine=True)": None,
    "nn.LayerNorm(8, eps=1e-06)": nn.LayerNorm((8,), eps=1e-6),
    "nn.LayerNorm((8, 4), bias=False)": None,
    "nn.LayerNorm(8, elementwise_affine=False)": None,
    "nn.RMSNorm(8, eps=1e-06)": None,
    "nn.GroupNorm(2, 8, affine=False)": None,
    "nn.LocalResponseNorm(5, alpha=0.1)": None,
    "nn.Linear(4, 8, bias=False)": None,
    "nn.Linear(4, 8, dtype=torch.bfloat16)": None,
    "nn.Bilinear(4, 5, 8)": None,
    "nn.Embedding(10, 4, padding_idx=0)": None,
    'nn.EmbeddingBag(10, 4, mode="sum")': None,
    "nn.LSTM(4, 8, num_layers=2, batch_first=True, dropout=0.1, bidirectional=True)": None,
    "nn.LSTM(4, 8, proj_size=3)": None,
    "nn.GRU(4, 8, bias=False, dtype=torch.float64)": None,
    'nn.RNN(4, 8, nonlinearity="relu")': None,
    "nn.LSTMCell(4, 8, bias=False)": None,
    "nn.GRUCell(4, 8)": None,
    "nn.MultiheadAttention(8, 2, dropout=0.1, bias=False, batch_first=True)": None,
    "nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True, kdim=4, vdim=5)": None,
    "nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, activation=F.gelu, norm_first=True)": None,
    "nn.MaxPool2d(3, stride=2, padding=1)": None,
    "nn.MaxPool2d(3)": nn.MaxPool2d(3, stride=None),
    "nn.MaxPool2d((3, 3), stride=(2, 1), ceil_mode=True)": None,
    "nn.MaxUnpool2d(2)": nn.MaxUnpool2d(2),
    "nn.AvgPool2d(2, count_include_pad=False)": None,
    "nn.LPPool2d(2, 3)": None,
    "nn.AdaptiveAvgPool2d(1)": None,
    "nn.AdaptiveAvgPool2d((1, None))": None,
    "nn.AdaptiveMaxPool1d(3)": None,
    "nn.ReLU(inplace=True)": None,
    "nn.ReLU6()": None,
    "nn.Hardtanh(min_val=-2.0)": None,
    "nn.LeakyReLU(negative_slope=0.2)": None,
    "nn.PReLU(num_parameters=8)": None,
    'nn.GELU(approximate="tanh")': None,
    "nn.SiLU()": None,
    "nn.Mish()": None,
    "nn.Hardswish(inplace=True)": None,
    "nn.ELU(alpha=0.5)": None,
    "nn.CELU()": None,
    "nn.Softplus(beta=2.0)": None,
    "nn.GLU(dim=1)": None,
    "nn.Threshold(0.1, 20)": None,
    "nn.Softmax(dim=-1)": None,
    "nn.LogSoftmax(dim=1)": None,
    "nn.Tanh()": None,
    "nn.Dropout(p=0.1)": None,
    "nn.Dropout2d(p=0.2, inplace=True)": None,
    "nn.AlphaDropout()": None,
    'nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True)': None,
    "nn.Upsample(size=(4, 4))": None,
    "nn.PixelShuffle(2)": None,
    "nn.PixelUnshuffle(2)": None,
    "nn.ChannelShuffle(2)": None,
    "nn.Flatten(start_dim=2)": None,
    "nn.Unflatten(1, (2, 4))": None,
    "nn.Fold((4, 4), 2, stride=2)": None,
    "nn.Unfold(2, padding=1)": None,
    "nn.Identity()": None,
    "nn.ZeroPad2d(1)": None,
    "nn.ZeroPad2d((1, 0, 2, 0))": None,
    "nn.ConstantPad1d(1, 0.5)": None,
    "nn.ReflectionPad2d(2)": None,
    "nn.CosineSimilarity(eps=1e-06)": None,
    "nn.PairwiseDistance(p=1.0)": None,
    "nn.Sequential(nn.Linear(4, 4), nn.ReLU())": None,
}


@pytest.mark.parametrize("call", LEAVES)
def test_leaf_constructor(call: str) -> None:
    module = LEAVES[call] or eval(call, {"F": F, "nn": nn, "torch": torch})
    assert leaf(module, "layer", Names()).call == call


def _hooked() -> nn.Module:
    module = nn.Linear(4, 4)
    module.register_forward_hook(lambda *_: None)
    return module


def _resized() -> nn.Module:
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(torch.zeros(3, 4))
    return module


def _altered() -> nn.Module:
    module = nn.Conv2d(4, 4, 3, padding=1)
    module.padding_mode = "circular"  # the cached padding of the constructor is missing
    module._reversed_padding_repeated_twice = [0, 0, 0, 0]
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "layer: ParametrizedLinear is parametrized"),
        (_hooked(), "hooks"),
        (Custom(4, 4), "Custom is not a class of torch"),
        (_resized(), r"layer: Linear.weight has shape \(3, 4\).* \(4, 4\)"),
        (_altered(), "_reversed_padding_repeated_twice"),
    ],
)
def test_leaf_that_cannot_be_written(module: nn.Module, message: str) -> None:
    root = nn.Module()
    root.layer = module
    slim = graph_of(root, lambda graph, x: graph.call_module("layer", (x,)))
    with pytest.raises(PruneError, match=message):
        source_of(slim)


def test_leaf_with_other_parts() -> None:
    root = nn.Module()
    root.norm = nn.BatchNorm2d(4)
    root.norm.gain = nn.Parameter(torch.randn(4, 1, 1))
    root.norm.act = nn.ReLU()
    root.norm.bias = None

    def build(graph, x):
        y = graph.call_module("norm", (x,))
        return graph.call_module("norm.act", (graph.call_function(operator.mul, (y, graph.get_attr("norm.gain"))),))

    slim = graph_of(root, build)
    assert_equal_bits(slim, torch.randn(2, 4, 3, 3))
    assert "attach(" in source_of(slim)
    assert forward_text(slim) == "x = self.norm(x)\nx = x * self.norm.gain\nreturn self.norm.act(x)"


def test_mixed_dtypes_inside_one_leaf() -> None:
    root = nn.Module()
    root.fc = nn.Linear(4, 4)
    root.fc.extra = nn.Parameter(torch.ones(2, dtype=torch.float64))
    root.fc.register_buffer("steps", torch.tensor([3]), persistent=False)
    slim = graph_of(root, lambda graph, x: graph.call_module("fc", (x,)))
    slim.fc.weight.data = slim.fc.weight.data.half().float()
    made = assert_equal_bits(slim, torch.randn(2, 4))
    assert made.fc.extra.dtype == torch.float64
    assert made.fc.steps.tolist() == [3]
