"""Shapes by formula are those of PyTorch's own kernels, strides included, or left to these."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxprune.tracing.labelling.quick_shapes import QuickShapes


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def last(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", memory_format=torch.channels_last)


CASES: dict[str, Callable[[], Any]] = {
    **{
        f"conv {size} {kernel} {stride} {padding} {dilation}": lambda s=size, k=kernel, a=stride, b=padding, c=dilation: (
            F.conv2d(meta(2, 4, s, s), meta(6, 4, k, k), meta(6), a, b, c)
        )
        for size, kernel, stride, padding, dilation in itertools.product((7, 8), (1, 3), (1, 2), (0, 1), (1, 2))
    },
    "conv depthwise": lambda: F.conv2d(meta(2, 4, 8, 8), meta(4, 1, 3, 3), groups=4),
    "conv 1d": lambda: F.conv1d(meta(2, 4, 9), meta(6, 4, 3), padding=1),
    "conv 3d": lambda: F.conv3d(meta(2, 4, 9, 8, 7), meta(6, 4, 3, 2, 1), stride=(1, 2, 1)),
    "conv same": lambda: F.conv2d(meta(2, 4, 8, 8), meta(6, 4, 3, 3), padding="same"),
    "conv unbatched": lambda: F.conv2d(meta(4, 8, 8), meta(6, 4, 3, 3)),
    "conv channels last": lambda: F.conv2d(last(2, 4, 8, 8), meta(6, 4, 3, 3)),
    "conv one pixel": lambda: F.conv2d(meta(2, 4, 1, 1), meta(6, 4, 1, 1)),
    "conv one channel": lambda: F.conv2d(meta(2, 1, 8, 8), meta(6, 1, 3, 3)),
    "linear": lambda: F.linear(meta(2, 3, 4), meta(5, 4), meta(5)),
    "linear transposed": lambda: F.linear(meta(2, 4, 3).transpose(1, 2), meta(5, 4)),
    "matmul": lambda: meta(2, 3, 4, 5) @ meta(2, 3, 5, 6),
    "matmul transposed": lambda: meta(2, 3, 4, 5) @ meta(2, 3, 6, 5).transpose(-2, -1),
    "matmul by a matrix": lambda: meta(2, 3, 4, 5) @ meta(5, 6),
    "matmul of a matrix": lambda: meta(4, 5) @ meta(2, 3, 5, 6),
    "matmul broadcast": lambda: meta(2, 3, 4, 5) @ meta(1, 3, 5, 6),
    "attention": lambda: F.scaled_dot_product_attention(meta(2, 3, 4, 8), meta(2, 3, 5, 8), meta(2, 3, 5, 6)),
    "attention masked": lambda: F.scaled_dot_product_attention(
        meta(2, 3, 4, 8), meta(2, 3, 5, 8), meta(2, 3, 5, 8), meta(4, 5)
    ),
    "mean": lambda: meta(2, 3, 4, 5).mean((2, 3)),
    "mean kept": lambda: meta(2, 3, 4, 5).mean((-1, -2), keepdim=True),
    "mean channels last": lambda: last(2, 3, 4, 5).mean((2, 3), keepdim=True),
    "mean of all": lambda: meta(2, 3).mean(),
    "mean in double": lambda: meta(2, 3).mean(1, dtype=torch.float64),
    "amax": lambda: meta(2, 3, 4).amax(1),
    "cat": lambda: torch.cat([meta(2, 3, 4, 5), meta(2, 1, 4, 5)], 1),
    "cat channels last": lambda: torch.cat([last(2, 3, 4, 5), last(2, 1, 4, 5)], 1),
    "cat of slices": lambda: torch.cat([meta(2, 3, 4, 6).chunk(2, -1)[0], meta(2, 4, 3, 5).transpose(1, 2)], -1),
    "cat of images": lambda: torch.cat([meta(2, 4, 5, 3).permute(0, 3, 1, 2), meta(2, 4, 5, 2).permute(0, 3, 1, 2)], 1),
    "cat negative": lambda: torch.cat([meta(2, 3), meta(2, 4)], -1),
    "cat of two dtypes": lambda: torch.cat([meta(2, 3), meta(2, 4).double()], -1),
    "negative": lambda: -meta(2, 3, 4),
    "broadcast": lambda: meta(4, 1) * meta(2, 3, 4, 5),
    "broadcast both": lambda: meta(2, 1) + meta(1, 3),
    "broadcast transposed": lambda: meta(5, 4).t() * meta(2, 3, 4, 5),
    "broadcast channels last": lambda: meta(2, 3, 1, 1) * last(2, 3, 4, 5),
    "permuted": lambda: F.relu(meta(2, 3, 4, 5).permute(0, 2, 3, 1)),
    "slice": lambda: F.relu(meta(2, 3, 4, 6).chunk(2, -1)[0].transpose(1, 2)),
    "channels last": lambda: F.relu(last(2, 3, 4, 5)),
    "in place": lambda: meta(2, 3).relu_().add_(meta(3)),
    "softmax in double": lambda: meta(2, 3).softmax(1, dtype=torch.float64),
}
WRONG: dict[str, Callable[[], Any]] = {
    "conv": lambda: F.conv2d(meta(2, 4, 8, 8), meta(6, 3, 3, 3)),
    "conv too small": lambda: F.conv2d(meta(2, 4, 2, 2), meta(6, 4, 3, 3)),
    "linear": lambda: F.linear(meta(2, 3), meta(5, 4)),
    "matmul": lambda: meta(2, 3, 4) @ meta(2, 5, 6),
    "mean": lambda: meta(2, 3).mean((1, -1)),
    "attention": lambda: F.scaled_dot_product_attention(meta(2, 3, 4, 8), meta(2, 3, 5, 7), meta(2, 3, 5, 7)),
    "cat": lambda: torch.cat([meta(2, 3), meta(3, 4)], 1),
    "in place": lambda: meta(3).add_(meta(2, 3)),
}


def strides(tensor: Tensor) -> list[int]:
    """Of the axes of several entries: those of the others say nothing."""
    return [s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1]


@pytest.mark.parametrize("case", CASES)
def test_like_the_kernels(case: str) -> None:
    with torch.inference_mode():
        expected = CASES[case]()
        with QuickShapes():
            found = CASES[case]()
    assert (found.shape, found.dtype, found.device) == (expected.shape, expected.dtype, expected.device)
    assert found.is_contiguous() == expected.is_contiguous()
    assert strides(found) == strides(expected)


@pytest.mark.parametrize("case", WRONG)
def test_the_kernel_says_what_is_wrong(case: str) -> None:
    wrong = RuntimeError, ValueError, IndexError
    with torch.inference_mode():
        try:
            WRONG[case]()
        except wrong:
            with QuickShapes(), pytest.raises(wrong):
                WRONG[case]()
        else:
            pytest.skip("this PyTorch says nothing either")
