"""The rules, one ATen operator at a time: what goes together, what stays, and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.rules import ran
from torch import Tensor

from fxprune.labels import table


def lstm(x: Tensor, w: Tensor, r: Tensor) -> Any:
    state = torch.empty(1, 2, 2, device="meta")
    return torch.ops.aten.lstm.input(x, (state, state), [w, r], False, 1, 0.0, False, False, True)


def numbers(*values: int) -> Tensor:
    return torch.tensor(values)


def unknown_numbers(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.long, device="meta")


# Operator, shapes of its inputs, what axes hold afterwards (see `support.rules`).
CASES: dict[str, tuple[Any, list[str], dict[str, str]]] = {
    # contraction
    "linear": (F.linear, ["n a3", "o2 i3"], {"out 1": "o0 o1", "in1 1": "a0 a1 a2"}),
    "matmul": (torch.matmul, ["n a3", "b3 c2"], {"out 1": "c0 c1", "in1 0": "a0 a1 a2"}),
    "einsum": (
        lambda x, w: torch.einsum("nchw,dc->ndhw", x, w),
        ["n a3 4 4", "o2 i3"],
        {"out 1": "o0 o1", "in1 1": "a0 a1 a2"},
    ),
    "attention": (
        F.scaled_dot_product_attention,
        ["n h2 5 q3", "n i2 5 k3", "n j2 5 v3"],
        {"in1 1": "h0 h1", "in2 1": "h0 h1", "in1 3": "q0 q1 q2", "out 3": "v0 v1 v2"},
    ),
    # convolution
    "conv2d": (F.conv2d, ["n a3 4 4", "o2 i3 1 1"], {"out 1": "o0 o1", "in1 1": "a0 a1 a2"}),
    "conv2d, depthwise": (
        lambda x, w: F.conv2d(x, w, groups=3),
        ["n a3 4 4", "o3 1 1 1"],
        {"out 1": "a0 a1 a2", "in1 0": "a0 a1 a2"},
    ),
    "conv_transpose2d": (F.conv_transpose2d, ["n a3 4 4", "i3 o2 1 1"], {"out 1": "o0 o1", "in1 0": "a0 a1 a2"}),
    # elementwise
    "add": (torch.add, ["n a3", "n b3"], {"out 1": "a0 a1 a2", "in1 1": "a0 a1 a2"}),
    "multiply by one entry": (torch.mul, ["n a3 4", "n 1 4"], {"out 1": "a0 a1 a2"}),
    "where": (lambda x, y: torch.where(x > 0, x, y), ["n a3", "n b3"], {"out 1": "a0 a1 a2", "in1 1": "a0 a1 a2"}),
    "glu": (lambda x: F.glu(x, 1), ["n a4"], {"in 1": "a0 a1 a0 a1", "out 1": "a0 a1"}),
    "prelu": (torch.prelu, ["n a3 4", "w3"], {"out 1": "a0 a1 a2", "in1 0": "a0 a1 a2"}),
    # join
    "cat": (lambda x, y: torch.cat([x, y], 1), ["n a2", "n b3"], {"out 1": "a0 a1 b0 b1 b2"}),
    "cat over the batch": (lambda x, y: torch.cat([x, y]), ["n a2", "n b2"], {"out 1": "a0 a1", "in1 1": "a0 a1"}),
    "stack": (lambda x, y: torch.stack([x, y], 1), ["n a2", "n b2"], {"out 1": "- -", "out 2": "a0 a1", "in1 1": "a0 a1"}),
    "pad with numbers": (lambda x: F.pad(x, (1, 2)), ["n a3"], {"out 1": "? a0 a1 a2 ? ?"}),
    "repeat": (lambda x: x.repeat(1, 2), ["n a2"], {"out 1": "a0 a1 a0 a1"}),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), ["n a2"], {"out 1": "a0 a0 a1 a1"}),
    # normalization
    "batch_norm": (F.batch_norm, ["n a3 4", "m3", "v3"], {"out 1": "a0 a1 a2", "in1 0": "a0 a1 a2", "in2 0": "a0 a1 a2"}),
    "layer_norm": (lambda x, w: F.layer_norm(x, (3,), w), ["n a3", "w3"], {"out 1": "a0 a1 a2", "in1 0": "a0 a1 a2"}),
    "softmax": (lambda x: x.softmax(1), ["n a3"], {"out 1": "a0 a1 a2"}),
    # recurrent
    "lstm": (lstm, ["n 5 a3", "g8 i3", "s8 r2"], {"in1 1": "a0 a1 a2"}),
    # reduction
    "sum": (lambda x: x.sum(2), ["n a3 b4"], {"out 1": "a0 a1 a2", "in 2": "b0 b1 b2 b3"}),
    "mean, kept": (lambda x: x.mean(1, keepdim=True), ["n a3 b2"], {"out 1": "-", "out 2": "b0 b1", "in 1": "a0 a1 a2"}),
    # selection
    "slice": (lambda x: x[:, 1:], ["n a3"], {"out 1": "a1 a2", "in 1": "a0 a1 a2"}),
    "index by numbers": (lambda x: x[:, numbers(2, 0)], ["n a3"], {"out 1": "a2 a0"}),
    "index_select": (lambda x: x.index_select(1, numbers(2, 2)), ["n a3"], {"out 1": "a2 a2"}),
    "rows by number": (
        lambda x, y: x.index_put((numbers(1, 0),), y),
        ["n a3", "n b3"],
        {"out 1": "a0 a1 a2", "in1 1": "a0 a1 a2", "out 0": "- -"},
    ),
    "one row by number": (
        lambda x, y: x.index_put((numbers(1),), y),
        ["n a3", "b3"],
        {"out 1": "a0 a1 a2", "in1 0": "a0 a1 a2"},
    ),
    "embedding": (lambda w: F.embedding(unknown_numbers(2, 5), w), ["a4 b3"], {"out 2": "b0 b1 b2"}),
    "flip": (lambda x: x.flip(1), ["n a3"], {"out 1": "a2 a1 a0"}),
    # shape
    "view into one axis": (lambda x: x.view(2, 6), ["n a3 2"], {"out 1": "a0 a0 a1 a1 a2 a2"}),
    "view into two axes": (lambda x: x.view(2, 2, 3), ["n a6"], {"in 1": "a0 a1 a2 a0 a1 a2", "out 2": "a0 a1 a2"}),
    "permute": (lambda x: x.permute(2, 0, 1), ["n a3 4"], {"out 2": "a0 a1 a2"}),
    "transpose": (lambda x: x.transpose(1, 2), ["n a3 b2"], {"out 1": "b0 b1", "out 2": "a0 a1 a2"}),
    "expand": (lambda x: x[:, None].expand(-1, 4, -1), ["n a3"], {"out 2": "a0 a1 a2"}),
    "chunk": (lambda x: x.chunk(2, 1), ["n a4"], {"out 1": "a0 a1", "out1 1": "a2 a3"}),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), ["n a8 3 3"], {"in 1": "a0 a0 a0 a0 a4 a4 a4 a4", "out 1": "a0 a4"}),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), ["n a4 3 3"], {"out 1": "a0 a0 a1 a1"}),
    # spatial
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), ["n a3 4 4"], {"out 1": "a0 a1 a2"}),
    "unfold": (lambda x: F.unfold(x, 2), ["n a2 3 3"], {"out 1": "a0 a0 a0 a0 a1 a1 a1 a1"}),
    # create
    "zeros_like": (torch.zeros_like, ["n a3"], {"out 1": "a0 a1 a2"}),
}


@pytest.mark.parametrize("kind", CASES)
def test_entries_go_together(kind: str) -> None:
    operator, shapes, expected = CASES[kind]
    found = ran(operator, *shapes)
    assert {place: found.axis(place) for place in expected} == expected
    assert not found.mode.unknown


BY_NUMBER = "entries of this axis are addressed by number"

# Operator, shapes of its inputs, which axes stay as a whole, which do not, and a word of the reason.
FREEZING: dict[str, tuple[Any, list[str], list[str], list[str], str]] = {
    "matmul with a constant": (torch.matmul, ["n a3", "3 c2"], ["in 1"], ["in1 1"], "matmul"),
    "kernel of a convolution": (F.conv2d, ["n a3 4 4", "o2 i3 k3 1"], ["in1 2"], ["in1 1"], "kernel size"),
    "conv2d over channels": (F.conv1d, ["n 2 a4", "o2 2 1"], ["in 1", "in 2"], ["in1 0"], "slides over this axis"),
    "channels by number": (
        lambda x, y: torch.ops.aten.index_put(x, [None, numbers(1, 0)], y),
        ["n a3", "n b2"],
        ["in 1", "in1 1"],
        [],
        BY_NUMBER,
    ),
    "tril": (torch.tril, ["n a3 b3"], ["in 1", "in 2"], [], "order of entries"),
    "add of positions": (lambda x: x + torch.arange(3, device="meta"), ["n a3"], ["in 1"], [], "add"),
    "pad with what is there": (lambda x: F.pad(x, (1, 1), "reflect"), ["n a3 b4"], ["in 2"], ["in 1"], "pad"),
    "cat of a constant": (lambda x, y: torch.cat([x, y]), ["n a2", "n 2"], ["in 1"], [], "cat"),
    "hidden state": (lstm, ["n 5 a3", "g8 i3", "s8 r2"], ["in1 0", "in2 0", "in2 1"], ["in 2"], "hidden state"),
    "fft": (lambda x: torch.fft.fft(x, dim=1), ["n a3 b4"], ["in 1"], ["in 2"], "Fourier"),
    "max with places": (lambda x: x.max(1), ["n a3 b4"], ["in 1"], ["in 2"], BY_NUMBER),
    "sort": (lambda x: x.sort(1), ["n a3 b4"], ["in 1"], ["in 2"], "number"),
    "cumsum": (lambda x: x.cumsum(1), ["n a3 b4"], ["in 1"], ["in 2"], "number"),
    "logcumsumexp": (lambda x: x.logcumsumexp(1), ["n a3 b4"], ["in 1"], ["in 2"], "number"),
    "causal attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        ["n a5 q3", "n b5 k3", "n c5 v3"],
        ["in 1", "in1 1", "in2 1"],
        ["in 2", "in1 2", "in2 2"],
        "causal mask",
    ),
    "roll": (lambda x: x.roll(1, 1), ["n a3 b4"], ["in 1"], ["in 2"], "a number of places"),
    "gather": (lambda x: x.gather(1, unknown_numbers(2, 3)), ["n a3"], ["in 1"], [], "number"),
    "rows of a table": (lambda w: F.embedding(unknown_numbers(2, 5), w), ["a4 b3"], ["in 0"], ["in 1"], BY_NUMBER),
    "diagonal": (lambda x: x.diagonal(0, 1, 2), ["n a3 b3"], ["in 1", "in 2"], [], "diagonal"),
    "unbind": (lambda x: x.unbind(1), ["n a2 b3"], ["in 1"], ["in 2"], "taken apart by number"),
    "meshgrid": (lambda x, y: torch.meshgrid(x, y, indexing="ij"), ["a2", "b3"], ["in 0", "in1 0"], [], "meshgrid"),
    "pooling over channels": (lambda x: F.max_pool1d(x, 2), ["n a4 b4"], ["in 2"], ["in 1"], "max_pool1d"),
    "windows": (lambda x: x.unfold(1, 2, 1), ["n a4 b3"], ["in 1"], ["in 2"], "window"),
}


@pytest.mark.parametrize("kind", FREEZING)
def test_entries_stay(kind: str) -> None:
    operator, shapes, stay, go, reason = FREEZING[kind]
    found = ran(operator, *shapes)
    assert [set(found.axis(place).split()) for place in stay] == [{"-"}] * len(stay)
    assert all("-" not in found.axis(place).split() for place in go)
    assert any(reason in cause for cause in found.causes())
    assert not found.mode.unknown


@pytest.mark.parametrize(
    ("operator", "shapes"),
    [
        (lambda x, y: torch.linalg.cross(x, y, dim=1), ["n a3", "n b3"]),
        (lambda x: torch.renorm(x, 2, 1, 1.0), ["n a3"]),
        (torch.linalg.inv, ["n a3 b3"]),
    ],
    ids=["cross", "renorm", "inv"],
)
def test_an_operator_without_a_rule_freezes_all_that_it_touches(operator: Any, shapes: list[str]) -> None:
    found = ran(operator, *shapes)
    assert found.mode.unknown and any("no rule knows the operator aten." in cause for cause in found.causes())
    places = [f"in{i} {d}" for i, t in enumerate(found.inputs) for d in range(t.dim())]
    places += [f"out{i} {d}" for i, t in enumerate(found.outputs) for d in range(t.dim())]
    assert {entry for place in places for entry in found.axis(place).split()} == {"-"}


def test_one_channel_of_many_is_selected_and_stays() -> None:
    assert ran(lambda x: x[:, 1], "n a3 4").axis("in 1") == "a0 - a2"


@pytest.mark.parametrize(("operator", "counted"), [("mean", True), ("sum", False)])
def test_a_mean_is_a_statistic_and_a_sum_is_none(operator: str, counted: bool) -> None:
    found = ran(lambda x: getattr(x, operator)(1), "n a3 4")
    assert set(found.mode.statistics_nodes) == ({"call"} if counted else set())
    assert found.solution.statistics.any() == counted


@pytest.mark.parametrize(("literals", "free"), [(frozenset({4}), True), (frozenset(), False)], ids=["a number", "a size"])
def test_copies_can_go_where_their_number_is_written(literals: frozenset[int], free: bool) -> None:
    """``expand`` to a number in the graph can be rewritten; to a size of the input it follows that."""
    found = ran(lambda x: x[:, None].expand(-1, 4, -1), "n a3", literals=literals)
    assert found.axis("out 1") == ("? ? ? ?" if free else "- - - -")


# -- the table ---------------------------------------------------------------------------------------------


def test_every_overload_and_the_form_in_place_have_the_rule() -> None:
    aten = torch.ops.aten
    assert table.find(aten.sum.default) is table.find(aten.sum.dim_IntList) is not None
    assert table.find(aten.mul_.Tensor) is table.find(aten.mul.Tensor) is table.find(aten.relu.default)
    assert table.find(aten.renorm.default) is None
