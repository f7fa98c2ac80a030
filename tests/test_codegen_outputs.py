"""Named outputs, and what differs between training and evaluation."""

from __future__ import annotations

import dataclasses
import operator
from collections import OrderedDict, namedtuple
from typing import NamedTuple

import torch
import torch.nn.functional as F
from support.codegen import assert_equal_bits, forward_text, graph_of, traced
from torch import nn

from fxprune.codegen import rebuild
from fxprune.tracing.tracer import select_mode

# ---- named outputs


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor | None = None


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    hidden: list = dataclasses.field(default_factory=list)


class ModelOutput(OrderedDict):
    pass


Plain = namedtuple("Plain", ["x", "torch"])


def test_named_tuples() -> None:
    slim = traced(lambda self, x: (Pair(x + 1), Plain(x, x - 1)))
    pair, plain = assert_equal_bits(slim, torch.randn(3))(torch.zeros(3))
    assert pair.first.tolist() == [1, 1, 1]
    assert pair._fields == Pair._fields
    assert pair.second is None
    assert plain.torch.tolist() == [-1, -1, -1]


def test_dataclass_and_dict_subclass() -> None:
    def build(graph, x):
        inner = graph.call_function(ModelOutput, (), {"logits": x})
        return graph.call_function(Output, (), {"logits": inner})

    slim = graph_of(nn.Module(), build)
    found = rebuild(slim)(torch.zeros(3))
    assert type(found).__name__ == "Output"
    assert isinstance(found.logits, dict) and found.logits.logits is found.logits["logits"]
    assert found.hidden == []


# ---- modes


def test_blocks_for_one_mode() -> None:
    root = nn.Module()
    root.aux = nn.Linear(4, 4)
    root.head = nn.Linear(4, 4)

    def build(graph, x):
        flag = graph.get_attr("training")
        aux = graph.call_module("aux", (x,))
        aux = graph.call_function(torch.relu, (aux,))
        y = graph.call_module("head", (x,))
        scaled = graph.call_function(operator.mul, (y, 2))
        return graph.call_function(select_mode, (flag, graph.call_function(Pair, (y, aux)), scaled))

    graph_root = root
    slim = graph_of(graph_root, build)
    assert forward_text(slim) == "\n".join(
        [
            "if self.training:",
            "    y = self.aux(x)",
            "    y = torch.relu(y)",
            "x = self.head(x)",
            "if not self.training:",
            "    z = x * 2",
            "if self.training:",
            "    return Pair(x, y)",
            "return z",
        ]
    )
    assert_equal_bits(slim, torch.randn(2, 4))


def test_blocks_for_either_mode() -> None:
    def build(graph, x):
        flag = graph.get_attr("training")
        a = graph.call_function(torch.relu, (x,))
        b = graph.call_function(torch.sigmoid, (x,))
        chosen = graph.call_function(select_mode, (flag, a, b))
        return graph.call_function(operator.add, (chosen, x))

    slim = graph_of(nn.Module(), build)
    assert forward_text(slim) == "\n".join(
        [
            "if self.training:",
            "    y = torch.relu(x)",
            "else:",
            "    z = torch.sigmoid(x)",
            "y = y if self.training else z",
            "return y + x",
        ]
    )
    assert_equal_bits(slim, torch.randn(2, 4))


def test_mode_of_a_submodule_as_an_expression() -> None:
    root = nn.Module()
    root.blocks = nn.ModuleList([nn.Module()])
    root.blocks[0].attn = nn.Module()

    def build(graph, x):
        flag = graph.get_attr("blocks.0.attn.training")
        rate = graph.call_function(select_mode, (flag, 0.5, 0.0))
        return graph.call_function(F.dropout, (x, rate, flag))

    slim = graph_of(root, build)
    assert forward_text(slim) == (
        "y = 0.5 if self.blocks[0].attn.training else 0.0\nreturn F.dropout(x, y, self.blocks[0].attn.training)"
    )
    assert_equal_bits(slim, torch.randn(8))


def test_changes_in_place_happen_in_both_modes() -> None:
    def build(graph, x):
        y = graph.call_method("clone", (x,))
        changed = graph.call_method("mul_", (y, 2))
        flag = graph.get_attr("training")
        z = graph.call_function(operator.add, (y, 1))
        return graph.call_function(select_mode, (flag, changed, z))

    assert_equal_bits(graph_of(nn.Module(), build), torch.randn(3))
