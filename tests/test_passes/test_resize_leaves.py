"""resize-leaves: torch.nn modules remember the sizes of their tensors and inputs."""

from __future__ import annotations

import pytest
import torch
from passes_support import assert_rewrites, leaves_of, prepared
from torch import Tensor, nn

import fxprune
from fxprune.passes import Mismatch, pass_of
from fxprune.passes.base import run_passes

X = torch.zeros(2, 3, 4, 4)


class Chain(nn.Module):
    """A convolution, the leaf in question, and a head."""

    def __init__(self, leaf: nn.Module, width: int = 8, outputs: int = 8) -> None:
        super().__init__()
        self.conv, self.leaf, self.head = nn.Conv2d(3, width, 1), leaf, nn.Conv2d(outputs, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.leaf(self.conv(x)))


CASES = {
    "convolution": (nn.Conv2d(8, 8, 1), [0, 1], "Conv2d(6, 8, kernel_size=(1, 1), stride=(1, 1))", 3),
    "depthwise convolution": (
        nn.Conv2d(8, 8, 1, groups=8),
        [0, 1],
        "Conv2d(6, 6, kernel_size=(1, 1), stride=(1, 1), groups=6)",
        3,
    ),
    "transposed convolution": (nn.ConvTranspose2d(8, 8, 1), [0], "ConvTranspose2d(7, 8, kernel_size=(1, 1), stride=(1, 1))", 3),
    "batch norm": (
        nn.BatchNorm2d(8),
        [0, 1],
        repr(nn.BatchNorm2d(6)),
        3,
    ),
    "group norm of single channels": (nn.GroupNorm(8, 8), [0, 1], repr(nn.GroupNorm(6, 6)), 3),
    "prelu": (nn.PReLU(8), [3], "PReLU(num_parameters=7)", 3),
    "relu, which remembers no size": (nn.ReLU(), [3], "ReLU()", 2),
}


@pytest.mark.parametrize(("leaf", "gone", "after", "resized"), CASES.values(), ids=CASES.keys())
def test_a_leaf_is_resized(leaf: nn.Module, gone: list[int], after: str, resized: int) -> None:
    head = leaf.out_channels if isinstance(leaf, nn.Conv2d | nn.ConvTranspose2d) else 8
    outputs = head - len(gone) if "groups" in after or not isinstance(leaf, nn.Conv2d | nn.ConvTranspose2d) else head
    convolution = "Conv2d({}, {}, kernel_size=(1, 1), stride=(1, 1))"
    before = f"conv: {convolution.format(3, 8)}\nleaf: {leaf}\nhead: {convolution.format(head, 2)}"
    expected = f"conv: {convolution.format(3, 8 - len(gone))}\nleaf: {after}\nhead: {convolution.format(outputs, 2)}"
    model = Chain(leaf, 8, head)
    change = {"modules resized": resized}
    assert_rewrites("resize-leaves", model, (X,), {"conv.weight": gone}, (before, expected), change, leaves_of)


def test_groups_that_would_keep_unequal_numbers_are_refused() -> None:
    """Channels within the groups go in all groups alike: a cut by hand that takes them from one group only cannot run."""
    model = Chain(nn.Conv2d(8, 8, 1, groups=2))
    analysis = fxprune.analyze(model, X)
    within = next(g for g in analysis.free if g.size == 4)
    module, context = prepared(model, (X,), {within.id: [0]}, "resize-leaves")
    channels = analysis.solution.root[context.axes(next(n for n in module.graph.nodes if n.name == "conv"))[1].labels]
    mask = context.cut.mask
    mask[channels] = False
    mask[channels[0]] = True
    with pytest.raises(Mismatch, match="2 groups would keep unequal numbers of channels"):
        run_passes(module, [pass_of("resize-leaves")], context)
