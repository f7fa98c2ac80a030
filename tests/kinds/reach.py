"""Layers of torch.nn that are made of several operations, and how far the channels in them are followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case

__all__ = ["CASES"]

LENGTHS = {2: 5, 3: 7, 1: 4, 4: 6}


def first(batch: int) -> tuple[Tensor, ...]:
    """``[batch, length, 16]``."""
    return (torch.randn(batch, LENGTHS[batch], 16),)


def second(batch: int) -> tuple[Tensor, ...]:
    """``[length, batch, 16]``."""
    return (torch.randn(LENGTHS[batch], batch, 16),)


class Around(nn.Module):
    """A layer between two of the user's own."""

    def __init__(self, layer: nn.Module, *more: Any) -> None:
        super().__init__()
        self.a, self.layer, self.b, self.more = nn.Linear(16, 16), layer, nn.Linear(16, 4), more

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.b(self.layer(*(self.a(x) for x in inputs), *self.more))


class Functional(nn.Module):
    """`F.multi_head_attention_forward` as an own attention calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.qkv, self.out = nn.Linear(16, 16), nn.Linear(16, 48), nn.Linear(16, 4)
        self.proj = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = F.multi_head_attention_forward(
            h, h, h, 16, 2, self.qkv.weight, self.qkv.bias, None, None, False, 0.0, self.proj.weight, self.proj.bias
        )[0]
        return self.out(h)


def layer(**settings: Any) -> Callable[[], nn.Module]:
    return lambda: Around(nn.TransformerEncoderLayer(16, 2, 24, **settings))


def both(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(6, batch, 16), torch.randn(LENGTHS[batch], batch, 16)


def pairs(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 6, 16), torch.randn(batch, LENGTHS[batch], 16)


def normed(make: Callable[[], nn.Module], norm: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(norm(make()), nn.ReLU(), nn.Linear(12, 4))


CASES = [
    Case("encoder layer", layer(batch_first=True), first),
    Case("encoder layer, time first", layer(), second),
    Case("encoder layer, norm first", layer(batch_first=True, norm_first=True), first),
    Case("encoder layer, gelu", layer(batch_first=True, activation="gelu", dropout=0.0), first),
    Case("encoder", lambda: Around(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2)), first),
    Case(
        "encoder, time first",
        lambda: Around(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24), 2, nn.LayerNorm(16), False)),
        second,
    ),
    Case("decoder layer", lambda: Around(nn.TransformerDecoderLayer(16, 2, 24)), both),
    Case("transformer", lambda: Around(nn.Transformer(16, 2, 1, 1, 24, batch_first=True)), pairs),
    Case("attention of one's own", Functional, second),
    Case(
        "weight norm",
        normed(lambda: nn.Linear(8, 12), torch.nn.utils.parametrizations.weight_norm),
        lambda b: (torch.randn(b, 8),),
    ),
]
