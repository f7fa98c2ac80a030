"""The generated model's state: ties, types, modes, names."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest
import torch
from support.codegen import Residual, Ties, assert_equal_bits, forward_text, graph_of
from torch import nn
from torch.fx import symbolic_trace

from fxprune.codegen import load, rebuild, save
from fxprune.codegen.roundtrip import same_bits


def test_tied_parameters() -> None:
    slim = symbolic_trace(Ties())
    slim.register_buffer("lost", slim.lost, persistent=False)  # symbolic_trace makes it persistent
    made = assert_equal_bits(slim, torch.arange(10).reshape(5, 2))
    assert made.head.weight is made.embed.weight
    assert made.b[0].bias is made.a[0].bias
    assert list(made.state_dict()) == list(slim.state_dict())
    assert "lost" not in made.state_dict()
    assert same_bits(made.lost, slim.lost)
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in slim.parameters())


def test_tied_module() -> None:
    slim = symbolic_trace(Residual())
    slim.blocks.add_module("2", nn.Module())
    slim.blocks.get_submodule("2").inner = slim.norm
    slim.graph.inserting_before(next(iter(slim.graph.nodes)))
    made = rebuild(slim)
    assert made.blocks[2].inner is made.norm
    assert list(made.state_dict()) == list(slim.state_dict())


def test_module_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.fc(x).relu())

    assert_equal_bits(symbolic_trace(Twice()), torch.randn(2, 4))


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(4, 6, num_layers=2, bidirectional=True),
        nn.GRU(4, 6, batch_first=True),
        nn.LSTM(4, 6, proj_size=2, dtype=torch.float64),
    ],
)
def test_recurrent_layer(layer: nn.Module) -> None:
    root = nn.Module()
    root.rnn = layer

    def build(graph, x):
        both = graph.call_module("rnn", (x,))
        return graph.call_function(operator.getitem, (both, 0)), graph.call_function(operator.getitem, (both, 1))

    slim = graph_of(root, build)
    assert_equal_bits(slim, torch.randn(3, 5, 4, dtype=layer.weight_ih_l0.dtype))
    assert forward_text(slim) == "x, y = self.rnn(x)\nreturn x, y"


def test_attention_layer() -> None:
    root = nn.Module()
    root.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def build(graph, x):
        both = graph.call_module("attention", (x, x, x), {"need_weights": False})
        return graph.call_function(operator.getitem, (both, 0))

    slim = graph_of(root, build)
    assert_equal_bits(slim, torch.randn(3, 5, 8))
    assert "outputs[0]" in forward_text(slim)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    slim = symbolic_trace(Residual().to(dtype))
    made = assert_equal_bits(slim, torch.randn(2, 3, 8, 8, dtype=dtype))
    assert {p.dtype for p in made.parameters()} == {dtype}
    assert all(map(same_bits, load(save(slim, tmp_path)).state_dict().values(), slim.state_dict().values()))


def test_modes_and_frozen_parameters() -> None:
    model = Residual().train()
    model.norm.eval()
    model.blocks.requires_grad_(False)
    model.fc.bias.requires_grad_(False)
    slim = symbolic_trace(model)
    made = rebuild(slim)
    assert made.training
    assert not made.norm.training
    assert made.conv.training
    frozen = [name for name, p in made.named_parameters() if not p.requires_grad]
    assert frozen == [name for name, p in slim.named_parameters() if not p.requires_grad] != []
    assert not rebuild(symbolic_trace(Residual().eval())).training


def test_channels_last() -> None:
    slim = symbolic_trace(Residual()).to(memory_format=torch.channels_last)
    assert rebuild(slim).conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_odd_names() -> None:
    root = nn.Module()
    for name in ("0x", "__hidden", "torch"):
        child = nn.Module()
        child.add_module("__odd", nn.Linear(4, 4))
        child.add_module("3", nn.Linear(4, 4))
        root.add_module(name, child)
    root.register_parameter("__scale", nn.Parameter(torch.randn(4)))

    def build(graph, x):
        for name in ("0x", "__hidden", "torch"):
            x = graph.call_module(f"{name}.3", (graph.call_module(f"{name}.__odd", (x,)),))
        return graph.call_function(operator.mul, (x, graph.get_attr("__scale")))

    assert_equal_bits(graph_of(root, build), torch.randn(2, 4))


def test_numbered_root() -> None:
    slim = symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten()))
    assert_equal_bits(slim, torch.randn(1, 3, 2, 2))
    assert "input = self[0](input)" in forward_text(slim)
