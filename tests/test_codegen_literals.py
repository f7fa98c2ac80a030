"""Constants and functions by their public names."""

from __future__ import annotations

import json
import math
import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from support.codegen import graph_of
from torch import nn

import fxprune
from fxprune.codegen import source_of
from fxprune.codegen.literals import literal, public_path
from fxprune.codegen.names import Names
from fxprune.errors import PruneError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (True, "True"),
        (-0.5, "-0.5"),
        (math.inf, "math.inf"),
        (-math.inf, "-math.inf"),
        (2j, "complex(0.0, 2.0)"),
        ("a'b", '"a\'b"'),
        ("it's", '"it\'s"'),
        ("x\n", "'x\\n'"),
        (b"x", "b'x'"),
        (None, "None"),
        (..., "..."),
        ((1,), "(1,)"),
        ((), "()"),
        ([1, (2, 3)], "[1, (2, 3)]"),
        ({"a": [1]}, '{"a": [1]}'),
        (torch.Size([1, 2]), "torch.Size([1, 2])"),
        (slice(None, 3), "slice(None, 3, None)"),
        (range(3), "range(0, 3, 1)"),
        (torch.bfloat16, "torch.bfloat16"),
        (torch.channels_last, "torch.channels_last"),
        (torch.strided, "torch.strided"),
        (torch.device("cpu"), 'torch.device("cpu")'),
        ({2, 1}, "set([1, 2])"),
        (F.gelu, "F.gelu"),
        (int, "int"),
    ],
)
def test_literal(value: object, text: str) -> None:
    assert literal(value, Names()) == text
    assert eval(text) == value


def test_literal_nan_and_unknown() -> None:
    assert math.isnan(eval(literal(math.nan, Names())))
    with pytest.raises(PruneError, match="cannot be written as source"):
        literal(object(), Names())
    with pytest.raises(PruneError, match="Tensor"):
        literal(torch.ones(1), Names())


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (F.relu, "F.relu"),
        (torch.relu, "torch.relu"),
        (torch._C._nn.gelu, "F.gelu"),
        (torch.flatten, "torch.flatten"),
        (F.max_pool2d, "F.max_pool2d"),
        (F.scaled_dot_product_attention, "F.scaled_dot_product_attention"),
        (torch.einsum, "torch.einsum"),
        (torch.linalg.norm, "torch.linalg.norm"),
        (torch.fft.rfft2, "torch.fft.rfft2"),
        (torch._softmax, "torch._softmax"),
        (torch.ops.aten.add.Tensor, "torch.ops.aten.add.Tensor"),
        (math.floor, "math.floor"),
        (max, "max"),
        (torch.Tensor.add, "torch.Tensor.add"),
        (torch.finfo, "torch.finfo"),
        (torch.Size, "torch.Size"),
        (operator.floordiv, "operator.floordiv"),
        (torch._VF.lstm, "torch.lstm"),
    ],
)
def test_public_path(target: object, path: str) -> None:
    assert public_path(target) == path
    assert eval(path) is target or eval(path) == target


@pytest.mark.parametrize("target", [torchvision.ops.nms, lambda x: x, json.dumps])
def test_function_outside_of_torch(target) -> None:
    slim = graph_of(nn.Module(), lambda graph, x: graph.call_function(target, (x,)))
    with pytest.raises(PruneError, match="needs torch alone"):
        source_of(slim)


def test_what_numpy_rounds_is_written_as_what_math_has() -> None:
    class Padded(nn.Module):
        """A map padded to a multiple of seven, as numpy rounds it."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            up, down = int(np.ceil(x.shape[2] / 7)), int(np.floor(x.shape[3] / 7))
            return F.pad(x, (0, up, 0, down))

    recorded = fxprune.trace(Padded(), torch.zeros(2, 3, 9, 9))
    text = source_of(recorded)
    assert "math.ceil(" in text and "math.floor(" in text
