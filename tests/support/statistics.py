"""A residual network, batches, and the scores of criteria that observe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.statistics import gather

SOME = ["apoz", "gap_entropy", "aura_mi", "taylor", "wanda", "hrank", "aura_mi_layer", "hessian"]


class Block(nn.Module):
    """A residual network with norms, a gate, pooling, and a branch that differs between modes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(2)
        self.conv1, self.norm1 = nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.squeeze, self.excite = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.head, self.drop = nn.Linear(6, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm0(self.stem(x)).relu())
        x = (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu_()))).relu()
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = (x * gate).mean((2, 3))
        if self.training:
            x = self.drop(x)
        return self.head(x)


def model() -> Block:
    net = Block()
    with torch.no_grad():
        for norm in (net.norm0, net.norm1, net.norm2):
            norm.bias.normal_()
    return net


def batches(sizes: tuple[int, ...] = (4, 3, 5), seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 3, 8, 8, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in sizes]


def scores(made: Any, net: nn.Module, analysis: Any) -> Tensor:
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    return torch.cat([made(group, tensors) for group in analysis.free])


def all_scores(net: nn.Module, data: Any, names: list[str] = SOME, **options: Any) -> list[Tensor]:
    analysis = fxprune.analyze(net, torch.randn(2, 3, 8, 8))
    made = [criteria.resolve(n) for n in names]
    gather(net, analysis, made, data, **options)  # type: ignore[arg-type]
    return [scores(m, net, analysis) for m in made]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for name, a, b in zip(SOME, found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8), name
