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
    """`F.multi_head_attention_forward` as an own attention calls it: ``more(h)`` are arguments after the two first."""

    def __init__(self, bias: bool = False, zero: bool = False, more: Callable[[Tensor], dict[str, Any]] = lambda h: {}) -> None:
        super().__init__()
        self.bias_k, self.bias_v = (nn.Parameter(torch.randn(1, 1, 16)) if bias else None for _ in range(2))
        self.zero, self.more = zero, more
        self.a, self.qkv, self.out = nn.Linear(16, 16), nn.Linear(16, 48), nn.Linear(16, 4)
        self.proj = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = F.multi_head_attention_forward(
            *(h, h, h, 16, 2, self.qkv.weight, self.qkv.bias, self.bias_k, self.bias_v, self.zero, 0.0),
            *(self.proj.weight, self.proj.bias),
            **self.more(h),
        )[0]
        return self.out(h)


def layer(**settings: Any) -> Callable[[], nn.Module]:
    return lambda: Around(nn.TransformerEncoderLayer(16, 2, 24, **settings))


class Masked(nn.Module):
    """`nn.MultiheadAttention` that sees no later entries."""

    def __init__(self, masked: bool = True, **settings: Any) -> None:
        super().__init__()
        self.a, self.layer, self.b = (
            nn.Linear(16, 16),
            nn.MultiheadAttention(16, 2, batch_first=True, **settings),
            nn.Linear(16, 4),
        )
        self.masked = masked

    def forward(self, x: Tensor) -> Tensor:
        h, length = self.a(x), x.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1) if self.masked else None
        return self.b(self.layer(h, h, h, attn_mask=mask)[0])


def attention(**settings: Any) -> Callable[[], nn.Module]:
    return lambda: Masked(False, **settings)


def _padded(h: Tensor) -> dict[str, Any]:
    hidden = h[..., 0].transpose(0, 1) > 0.2
    return {"key_padding_mask": hidden, "attn_mask": torch.zeros(h.shape[0], h.shape[0], dtype=torch.bool, device=h.device)}


def _in_heads(h: Tensor) -> dict[str, Any]:
    heads = h.tanh().reshape(h.shape[0], h.shape[1] * 2, 8).transpose(0, 1)
    return {"static_k": heads, "static_v": heads.relu()}


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
    Case("attention of one's own that adds entries", lambda: Functional(True, True), second),
    Case("attention of one's own without weights", lambda: Functional(True, True, lambda h: {"need_weights": False}), second),
    Case("attention of one's own, padded", lambda: Functional(True, True, _padded), second),
    Case("attention of one's own over keys in heads", lambda: Functional(more=_in_heads), second),
    Case("attention that adds keys", attention(add_bias_kv=True), first),
    Case("attention that adds zeros", attention(add_zero_attn=True, dropout=0.1), first),
    Case("attention that adds both, masked", lambda: Masked(add_bias_kv=True, add_zero_attn=True), first),
    Case("a causal hint without a mask", lambda: Functional(more=lambda h: {"is_causal": True}), second, "give it the mask"),
    Case(
        "a causal hint and added entries",
        lambda: Functional(True, more=lambda h: {"is_causal": True, "attn_mask": h.new_zeros(h.shape[0], h.shape[0])}),
        second,
        "give the mask alone",
    ),
    Case(
        "weight norm",
        normed(lambda: nn.Linear(8, 12), torch.nn.utils.parametrizations.weight_norm),
        lambda b: (torch.randn(b, 8),),
    ),
]
