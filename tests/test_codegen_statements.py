"""Generated statements: the text, and the bits of what they compute."""

from __future__ import annotations

import math
import operator

import pytest
import torch
import torch.nn.functional as F
from support.codegen import assert_equal_bits, forward_text, graph_of, traced
from torch import nn
from torch.fx import Graph, GraphModule

from fxprune.codegen import rebuild
from fxprune.codegen.roundtrip import same_bits


def _arithmetic(self, x, y):
    return -(x + y) * (x - (y - 1)) / ((x * 2) ** 2 + 1) ** -(y**2) - (-x) ** 2 @ x.T


def _comparison(self, x, y):
    return ((x < y) == (y > 0)) & ~(x != y) | (x >= 1)


def _slices(self, x, y):
    return (
        x[:, :2],
        x[..., None, 0],
        x[1:3:2],
        x[0],
        x[-1, ::2],
        x[[0, 2]],
        x[(slice(1), [0])],
        x[y > 0],
        y[(0,)],
    )


def _sizes(self, x, y):
    batch, width = x.shape[0], x.size(1)
    return x.reshape(batch, width // 2, -1).sum(-1), y.new_zeros((batch * width, (width - 1) % 3)), x.shape


def _chunks(self, x, y):
    a, b = x.chunk(2, dim=1)
    c, d, e = y.split([1, 1, 2], dim=1)
    parts = torch.unbind(x, 1)
    return a * b, c + d, e, parts[0] + parts[3], torch.max(y, 1)[1]


def _containers(self, x, y):
    return {"out": x + 1, "rest": [y, (x, None, 3)], "self": {"a": x * math.inf}}


def _default(self, x, y=None, scale=-2.5, mode="a'b"):
    return x * scale


def _constants(self, x, y):
    return x * self.table - self.scale + F.pad(y, (0, 0), value=float("-inf"))


@pytest.mark.parametrize(
    "function",
    [_arithmetic, _comparison, _slices, _sizes, _chunks, _containers, _default],
    ids=lambda function: function.__name__,
)
def test_forward(function) -> None:
    assert_equal_bits(traced(function), torch.randn(4, 4), torch.randn(4, 4))


def test_buffers_and_unused_arguments() -> None:
    slim = traced(_constants, table=torch.randn(4), scale=torch.tensor(3.0))
    assert_equal_bits(slim, torch.randn(4, 4), torch.randn(4, 4))
    assert "x * self.table" in forward_text(slim)


def test_keyword_arguments_keep_their_names() -> None:
    made = rebuild(traced(_default))
    assert torch.equal(made(x=torch.ones(2), scale=3), 3 * torch.ones(2))
    assert torch.equal(made(torch.ones(2)), -2.5 * torch.ones(2))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda self, x: (x + 1) * 2, "x = x + 1\nreturn x * 2"),
        (lambda self, x: x.flatten(1).transpose(0, 1), "return x.flatten(1).transpose(0, 1)"),
        (lambda self, x: x.reshape(x.size(0), -1), "return x.reshape(x.size(0), -1)"),
        (lambda self, x: x[:, x.shape[1] // 2 :, None], "return x[:, x.shape[1] // 2 :, None]"),
        (lambda self, x: F.interpolate(x, scale_factor=2.0), "return F.interpolate(x, scale_factor=2.0)"),
        (lambda self, x: x.chunk(2, 1)[0] + 1, "chunks = x.chunk(2, 1)\nreturn chunks[0] + 1"),
        (lambda self, x: (x, x + 1), "y = x + 1\nreturn x, y"),
    ],
)
def test_text_of_forward(function, text: str) -> None:
    slim = traced(function)
    assert forward_text(slim) == text
    assert_equal_bits(slim, torch.randn(2, 4, 3))


IADD = "call_function", operator.iadd


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda g, x, y: g.create_node(*IADD, (x, y)), "x += y\nreturn x"),
        (lambda g, x, y: g.create_node(*IADD, (y, x)), "y += x\nreturn y"),
        (lambda g, x, y: (g.create_node(*IADD, (x, y)), x), "z = x\nz += y\nreturn z, x"),
        (lambda g, x, y: (g.create_node(*IADD, (x, y)), y)[1], "x += y\nreturn y"),
        (lambda g, x, y: (g.create_node(*IADD, (y, x)), y)[1], "y += x\nreturn y"),
        (lambda g, x, y: g.call_function(operator.ilshift, (x, 1)), "x <<= 1\nreturn x"),
        (
            lambda g, x, y: (g.call_function(operator.setitem, (x, (slice(None), slice(1, None)), 0)), x)[1],
            "x[:, 1:] = 0\nreturn x",
        ),
        (
            lambda g, x, y: g.call_function(operator.iadd, (g.call_method("size", (x, 0)), 1)),
            "return x.size(0) + 1",
        ),
        (lambda g, x, y: (g.call_method("mul_", (x, y)), x)[1], "x.mul_(y)\nreturn x"),
    ],
)
def test_changes_in_place(build, text: str) -> None:
    graph = Graph()
    graph.output(build(graph, graph.placeholder("x"), graph.placeholder("y")))
    slim = GraphModule(nn.Module(), graph)
    assert forward_text(slim) == text
    assert_equal_bits(slim, torch.arange(4).reshape(2, 2), torch.ones(2, 2, dtype=torch.int64))


def test_builtins_and_math() -> None:
    def build(graph, x):
        height, width = (graph.call_method("size", (x, i)) for i in (0, 1))
        larger = graph.call_function(max, (height, width))
        half = graph.call_function(int, (graph.call_function(operator.truediv, (larger, 2)),))
        root = graph.call_function(math.floor, (graph.call_function(math.sqrt, (half,)),))
        device = graph.call_function(getattr, (x, "device"))
        return graph.call_function(torch.zeros, (half, root), {"dtype": torch.float64, "device": device})

    slim = graph_of(nn.Module(), build)
    made = assert_equal_bits(slim, torch.randn(6, 9))
    assert made(torch.randn(6, 9)).shape == (4, 2)
    assert "int(max(x.size(0), x.size(1)) / 2)" in forward_text(slim)


def test_arguments_that_hide_global_names() -> None:
    graph = Graph()
    torch_, f, max_, nn_ = (graph.placeholder(name) for name in ("torch", "F", "max", "nn"))
    y = graph.call_function(F.relu, (graph.call_function(torch.sigmoid, (torch_,)),))
    size = graph.call_function(max, (graph.call_method("size", (f, 0)), 2))
    z = graph.call_method("to", (graph.call_function(operator.mul, (y, size)),), {"dtype": torch.float64})
    graph.output((z, graph.call_function(operator.add, (max_, nn_))))
    slim = GraphModule(nn.Module(), Graph())
    slim._graph = graph  # fx itself cannot run_once such a graph
    made = rebuild(slim)
    x = torch.randn(4)
    found, total = made(torch=x, F=torch.zeros(5), max=1, nn=2)
    assert same_bits(found, (torch.relu(torch.sigmoid(x)) * 5).double())
    assert total == 3


def test_sizes_are_read_before_the_shape_changes() -> None:
    def build(graph, x):
        size = graph.call_method("size", (x, 0))
        y = graph.call_method("unsqueeze_", (x, 0))
        return graph.call_method("reshape", (y, size, -1))

    slim = graph_of(nn.Module(), build)
    assert_equal_bits(slim, torch.randn(4, 3))


def test_assertions() -> None:
    def build(graph, x):
        size = graph.call_method("size", (x, 2))
        graph.call_function(torch._assert, (graph.call_function(operator.eq, (size, 4)), "need 4"))
        graph.call_function(
            torch._assert,
            (graph.call_function(operator.not_, (graph.call_function(operator.lt, (size, 2)),)), ""),
        )
        return x

    slim = graph_of(nn.Module(), build)
    assert forward_text(slim) == "\n".join(
        ["height = x.size(2)", 'assert height == 4, "need 4"', "assert height >= 2", "return x"]
    )
    with pytest.raises(AssertionError, match="need 4"):
        rebuild(slim)(torch.zeros(1, 1, 3))


def test_long_assertion_message() -> None:
    message = "the height must be a multiple of the size of the windows, " * 3

    def build(graph, x):
        graph.call_function(torch._assert, (graph.call_method("dim", (x,)), message))
        return x

    slim = graph_of(nn.Module(), build)
    assert max(map(len, forward_text(slim).splitlines())) < 100
    with pytest.raises(AssertionError, match=message):
        rebuild(slim)(torch.tensor(1.0))
