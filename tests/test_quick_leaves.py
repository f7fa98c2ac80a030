"""Shapes that are told without running a kernel are those that the kernel tells."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from fxprune.tracing.labelling.quick_leaves import quick_leaf

KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLUTIONS = [
    pytest.param(
        dims, kernel, stride, padding, dilation, groups, id=f"{dims}d-k{kernel}-s{stride}-p{padding}-d{dilation}-g{groups}"
    )
    for dims, kernel, stride, padding, dilation, groups in itertools.product(
        (1, 2, 3), (1, 3), (1, 2), (0, 1), (1, 2), (1, 2, 4)
    )
]


@pytest.mark.parametrize(("dims", "kernel", "stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_convolutions(dims: int, kernel: int, stride: int, padding: int, dilation: int, groups: int) -> None:
    for size in (7, 8):
        module = KINDS[dims](4, 8, kernel, stride, padding, dilation, groups, device="meta")
        x = torch.empty(2, 4, *(size + k for k in range(dims)), device="meta")
        assert_as_called(module, x)


LEAVES = {
    "batch norm of maps": (nn.BatchNorm2d(4), (2, 4, 5, 6)),
    "batch norm of tokens": (nn.BatchNorm1d(4), (2, 4, 5)),
    "batch norm without parameters": (nn.BatchNorm2d(4, affine=False, track_running_stats=False), (2, 4, 5, 6)),
    "linear": (nn.Linear(4, 3), (2, 5, 4)),
    "linear of a vector": (nn.Linear(4, 3, bias=False), (4,)),
    "relu in place": (nn.ReLU(inplace=True), (2, 3)),
    "softmax": (nn.Softmax(1), (2, 3)),
    "dropout": (nn.Dropout(0.1), (2, 3)),
    "identity": (nn.Identity(), (2, 3)),
}


@pytest.mark.parametrize(("module", "shape"), LEAVES.values(), ids=LEAVES.keys())
def test_other_leaves(module: nn.Module, shape: tuple[int, ...]) -> None:
    assert_as_called(module.to("meta").eval(), torch.empty(shape, device="meta"))


def assert_as_called(module: nn.Module, x: Tensor) -> None:
    found = quick_leaf(module, (x,), {})
    expected = module(x)
    assert found is not None and found.is_meta
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


# What their own code refuses, or what the table does not know: None, so that their own code speaks.
UNSURE = {
    "a convolution of fewer channels": (nn.Conv2d(4, 8, 3), (2, 3, 8, 8)),
    "a convolution whose settings are not those of its weight": (nn.Conv2d(4, 8, 3), (2, 4, 8, 8)),
    "a kernel larger than the image": (nn.Conv2d(4, 8, 3), (2, 4, 2, 8)),
    "an unbatched image": (nn.Conv2d(4, 8, 3), (4, 8, 8)),
    "padding in words": (nn.Conv2d(4, 8, 3, padding="same"), (2, 4, 8, 8)),
    "a norm of fewer channels": (nn.BatchNorm2d(4), (2, 3, 5, 5)),
    "a norm of other dimensions": (nn.BatchNorm2d(4), (2, 4, 5)),
    "a linear layer of fewer features": (nn.Linear(4, 3), (2, 3)),
    "a layer that is not in the table": (nn.GLU(), (2, 4)),
    "a subclass": (type("Mine", (nn.Linear,), {})(4, 3), (2, 4)),
}


@pytest.mark.parametrize(("module", "shape"), UNSURE.values(), ids=UNSURE.keys())
def test_what_is_not_sure_is_left_to_the_module(
    module: nn.Module, shape: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    if "settings" in request.node.name:
        module.out_channels = 6
    assert quick_leaf(module.to("meta"), (torch.empty(shape, device="meta"),), {}) is None
    assert quick_leaf(module, (torch.empty(shape),), {}) is None
