"""resize-arguments: sizes and numbers of channels in the arguments of functions follow what remains of their axes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from passes_support import forward_of, prepared
from torch import Tensor, nn

from fxprune.passes import Mismatch, pass_of
from fxprune.passes.base import run_passes

X = torch.zeros(2, 3, 4, 4)
ORDER = torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])


class Net(nn.Module):
    """``head(f(conv(x)))``: eight channels, of which 1 and 2 go in every case."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f, self.conv = f, nn.Conv2d(3, 8, 1)
        self.head = nn.LazyConv2d(2, 1)
        self.register_buffer("order", ORDER, persistent=False)
        with torch.no_grad():
            self(torch.zeros(2, 3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.f(self.conv(x)))


# What forward does with the eight channels -> how the lines between the convolutions read before and after.
CASES: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "reshape": (
        lambda x: x.reshape(2, 8, 16).reshape(2, 8, 4, 4),
        "reshape = conv.reshape(2, 8, 16)\nreshape_1 = reshape.reshape(2, 8, 4, 4)",
        "reshape = conv.reshape(2, 6, 16)\nreshape_1 = reshape.reshape(2, 6, 4, 4)",
    ),
    "a size that is left open stays open": (
        lambda x: x.reshape(2, -1, 16).reshape(2, -1, 4, 4),
        "reshape = conv.reshape(2, -1, 16)\nreshape_1 = reshape.reshape(2, -1, 4, 4)",
        "reshape = conv.reshape(2, -1, 16)\nreshape_1 = reshape.reshape(2, -1, 4, 4)",
    ),
    "a product with a size that follows the input": (
        lambda x: x.flatten(0, 1).reshape(x.shape[0] * 8, 1, 4, 4).reshape(x.shape[0], 8, 4, 4),
        "flatten = conv.flatten(0, 1)\nsize = conv.size(0)\nmul = size * 8\nreshape = flatten.reshape(mul, 1, 4, 4)\n"
        "reshape_1 = reshape.reshape(size, 8, 4, 4)",
        "flatten = conv.flatten(0, 1)\nsize = conv.size(0)\nmul = size * 8\nmul_1 = size * 6\n"
        "reshape = flatten.reshape(mul_1, 1, 4, 4)\nreshape_1 = reshape.reshape(size, 6, 4, 4)",
    ),
    "chunk becomes a split of given sizes": (
        lambda x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[0]], 1),
        "chunk = conv.chunk(2, 1)\ngetitem = chunk[1]\nchunk_1 = conv.chunk(2, 1)\ngetitem_1 = chunk_1[0]\n"
        "cat = torch.cat([getitem, getitem_1], 1)",
        "chunk = conv.split([2, 4], 1)\ngetitem = chunk[1]\nchunk_1 = conv.split([2, 4], 1)\ngetitem_1 = chunk_1[0]\n"
        "cat = torch.cat([getitem, getitem_1], 1)",
    ),
    "a slice": (
        lambda x: x[:, :4] + 0,
        "getitem = conv[(slice(None, None, None), slice(None, 4, None))]\nadd = getitem + 0",
        "getitem = conv[(slice(None, None, None), slice(None, 2, None))]\nadd = getitem + 0",
    ),
    "narrow": (
        lambda x: x.narrow(1, 1, 4),
        "narrow = conv.narrow(1, 1, 4)",
        "narrow = conv.narrow(1, 1, 2)",
    ),
    "padding of the channel axis": (
        lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)),
        "pad = torch.nn.functional.pad(conv, (0, 0, 0, 0, 2, 2), mode = 'constant', value = None)",
        "pad = torch.nn.functional.pad(conv, (0, 0, 0, 0, 2, 2), mode = 'constant', value = None)",
    ),
    "expand": (
        lambda x: x + x.mean((1, 2, 3), keepdim=True).expand(2, 8, 4, 4),
        "mean = conv.mean((1, 2, 3), keepdim = True)\nexpand = mean.expand(2, 8, 4, 4)\nadd = conv + expand",
        "mean = conv.mean((1, 2, 3), keepdim = True)\nexpand = mean.expand(2, 6, 4, 4)\nadd = conv + expand",
    ),
    "a layer called as a function": (
        lambda x: F.group_norm(x, 8),
        "group_norm = torch.nn.functional.group_norm(conv, 8, weight = None, bias = None, eps = 1e-05)",
        "group_norm = torch.nn.functional.group_norm(conv, 6, weight = None, bias = None, eps = 1e-05)",
    ),
}


def middle(text: str) -> str:
    """The lines between the two convolutions."""
    lines = text.splitlines()
    return "\n".join(lines[1:-2])


@pytest.mark.parametrize(("f", "before", "after"), CASES.values(), ids=CASES.keys())
def test_arguments_follow_their_axes(f: Callable[[Tensor], Tensor], before: str, after: str) -> None:
    module, context = prepared(Net(f), (X,), _gone(f), "resize-arguments")
    assert middle(forward_of(module)) == before
    run_passes(module, [pass_of("resize-arguments")], context)
    assert middle(forward_of(module)) == after
    assert bool(context.counters["resize-arguments"]["arguments set"]) == (before != after)


def _gone(f: Callable[[Tensor], Tensor]) -> dict[str, list[int]]:
    """Channels 1 and 2 of the convolution, whatever groups they are in."""
    import fxprune

    analysis = fxprune.analyze(Net(f), X)
    gone: dict[str, list[int]] = {}
    for group in analysis.free:
        for member in group.members:
            if member.name == "conv.weight" and member.axis == 0:
                gone[group.id] = [k for k, entries in enumerate(member.indices.tolist()) if set(entries) & {1, 2}]
    return {name: channels for name, channels in gone.items() if channels}


def test_a_shape_that_is_not_as_predicted_names_the_groups() -> None:
    twice = Net(lambda x: x.reshape(2, 8, 16).reshape(2, 8, 4, 4))
    module, context = prepared(twice, (X,), {"conv.weight": [1]}, "drop-unused")
    reshape = next(n for n in module.graph.nodes if n.name == "reshape_1")
    reshape.target, reshape.args = "transpose", (reshape.args[0], 1, 2)
    with pytest.raises(Mismatch, match=r"node reshape_1 has shape \(2, 16, 7\) where \(2, 7, 4, 4\) is predicted") as caught:
        run_passes(module, [pass_of("resize-arguments")], context)
    assert caught.value.groups == ["conv.weight"]
