"""The pass over data: where it looks, and what it sees there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.statistics import all_scores, batches, model
from torch import Tensor, nn

import fxprune
from fxprune.criteria.apoz import APoZ
from fxprune.errors import InputError
from fxprune.statistics import gather
from fxprune.statistics.maps import maps_of
from fxprune.statistics.spot import Spot
from fxprune.statistics.spots import Spots

# -- where it looks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "stem", "inner"),
    [
        ("activation", ["relu", "mul"], ["relu_"]),
        ("norm", ["norm0", "norm2", "excite"], ["norm1"]),
        ("sum", ["add"], ["relu_"]),
        ("consumer", ["conv1", "squeeze", "head"], ["conv2"]),
    ],
)
def test_sites(hook: Any, stem: list[str], inner: list[str]) -> None:
    analysis = fxprune.analyze(model(), torch.randn(2, 3, 8, 8))
    found = Spots(analysis).of(hook)
    assert [s.node for s in found["stem.weight"]] == stem
    assert [s.node for s in found["conv1.weight"]] == inner


def test_sites_show_the_activations_of_the_original() -> None:
    net = model().eval()
    seen: dict[str, Tensor] = {}
    hook = net.conv2.register_forward_pre_hook(lambda m, args: seen.__setitem__("inner", args[0].clone()))
    images = batches()[0][0]
    net(images)
    hook.remove()

    class Watch(APoZ):
        def observe(self, maps: Any) -> dict[str, Tensor]:
            if maps.spot.group == "conv1.weight":
                seen["found"] = maps.values.clone()
            return super().observe(maps)

    analysis = fxprune.analyze(net, images)
    gather(net, analysis, [Watch()], [images])
    assert torch.allclose(seen["found"][:, :, 0], seen["inner"], atol=1e-6)


def test_every_group_of_common_layouts_has_a_site() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.token = nn.Conv2d(3, 8, 2, stride=2), nn.Parameter(torch.zeros(1, 1, 8))
            self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
            self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
            q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
            x = x + self.out(y)
            return self.head((x + self.down(nn.functional.gelu(self.up(x))))[:, 0])

    net = Tokens()
    analysis = fxprune.analyze(net, torch.randn(2, 3, 8, 8))
    assert len(analysis.free) >= 3
    assert all(Spots(analysis).of("activation").values())
    for found in all_scores(net, batches()):
        assert torch.isfinite(found).all()


# -- maps ------------------------------------------------------------------------------------------------------------------


def site(dim: int, entries: list[list[int]], copies: tuple[int, ...] = ()) -> Spot:
    return Spot("g", "n", "n", dim, np.array(entries), copies)


def test_maps_of_images_tokens_vectors_and_windows() -> None:
    channels = [[0], [1], [2]]
    image = torch.randn(2, 3, 4, 5)
    assert torch.equal(maps_of(image, site(1, channels), 2)[:, :, 0], image)
    last = torch.randn(2, 4, 5, 3)
    assert torch.equal(maps_of(last, site(3, channels), 2)[:, :, 0], last.permute(0, 3, 1, 2))
    tokens = torch.randn(2, 17, 3)  # a class token and 4 x 4 patches
    assert torch.equal(maps_of(tokens, site(2, channels), 2)[:, :, 0], tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
    assert maps_of(torch.randn(2, 15, 3), site(2, channels), 2).shape == (2, 3, 1, 1, 15)  # too far from a square
    assert maps_of(torch.randn(2, 3, 16), site(1, channels), 2).shape == (2, 3, 1, 1, 16)  # a signal, not tokens
    assert maps_of(torch.randn(2, 3), site(1, channels), 2).shape == (2, 3, 1, 1, 1)
    windows = torch.randn(6, 4, 3)  # 2 images of 3 windows
    found = maps_of(windows, site(2, channels), 2)
    assert found.shape == (2, 3, 3, 2, 2)
    assert torch.equal(found[1, :, 2], windows[5].T.unflatten(1, (2, 2)))
    video = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(maps_of(video, site(1, channels), 2), video)
    first = torch.randn(15, 2, 3)  # sequence first
    assert torch.equal(maps_of(first, site(2, channels), 2)[:, :, 0, 0], first.permute(1, 2, 0))


def test_entries_of_a_channel_are_copies() -> None:
    value = torch.randn(2, 6, 4, 4)
    found = maps_of(value, site(1, [[0, 3], [1, 4], [5, 2]]), 2)
    assert found.shape == (2, 3, 2, 4, 4) and torch.equal(found[:, 2, 0], value[:, 5])
    heads = torch.randn(2, 3, 9, 4)
    found = maps_of(heads, site(3, [[0], [1], [2], [3]], (1,)), 2)
    assert found.shape == (2, 4, 3, 3, 3) and torch.equal(found[1, 2, 0].ravel(), heads[1, 0, :, 2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    data = batches()
    data[1][0][0, 0, 0, 0] = bad
    with pytest.raises(InputError, match="not finite"):
        all_scores(model(), data, ["apoz"])
