"""Operators whose result depends on the order of entries, over channels and over learned tokens; and masks kept in buffers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case

__all__ = ["CASES"]

WIDTH = 12


class Channels(nn.Module):
    """What the user wrote over the channels of ``a`` (8 -> 12), which must keep all or as many as the rule says."""

    def __init__(self, over: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.over = nn.Linear(8, WIDTH), over
        width = over(torch.randn(2, 5, WIDTH)).shape[-1]
        self.b, self.c = nn.Linear(width, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.over(self.a(x)).to(x.dtype)).relu())


class Tokens(nn.Module):
    """What the user wrote over learned tokens, as ``over(model, query of the tokens, key and value of both)``."""

    def __init__(self, over: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.tokens, self.over = nn.Parameter(torch.randn(1, WIDTH, 8)), over
        self.q, self.k, self.v, self.b = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens.expand(x.shape[0], -1, -1) * x.mean(1, keepdim=True)
        return self.b(self.over(self.q(tokens), self.k(tokens), self.v(tokens)).mean(1))


class Memory(nn.Module):
    """Attention from the inputs to a learned memory, as the user wrote it."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.memory, self.causal = nn.Parameter(torch.randn(1, 1, WIDTH, 16)), causal
        self.q, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory.expand(x.shape[0], -1, -1, -1)
        h = F.scaled_dot_product_attention(self.q(x).unsqueeze(1), memory, memory, is_causal=self.causal)
        return self.b(h.squeeze(1))


class Masked(nn.Module):
    """A causal mask in a buffer longer than the example, a table of places likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.qkv, self.b = nn.Linear(8, 16), nn.Linear(16, 48), nn.Linear(16, 4)
        self.register_buffer("mask", torch.full((32, 32), float("-inf")).triu(1))
        self.places = nn.Parameter(torch.randn(1, 32, 16))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        q, k, v = self.qkv(self.a(x) + self.places[:, :length]).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / 4 + self.mask[:length, :length]
        return self.b(scores.softmax(-1) @ v)


class Table(nn.Module):
    """Places taken out of a learned table by number, as many as there are tokens."""

    def __init__(self, taken: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.taken = nn.Linear(8, 16), nn.Linear(16, 4), taken
        self.places = nn.Parameter(torch.randn(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.b((self.a(x) + self.taken(self.places, x)).relu())


LENGTHS = {2: 5, 3: 9, 1: 7, 4: 3}


def sequences(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, LENGTHS[batch], 8),)


def over(name: str, between: Callable[[Tensor], Tensor]) -> Case:
    return Case(f"{name} over channels", lambda: Channels(between), sequences)


def tokens(name: str, between: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Case:
    return Case(f"{name} over tokens", lambda: Tokens(between), sequences)


def table(name: str, taken: Callable[[Tensor, Tensor], Tensor]) -> Case:
    return Case(name, lambda: Table(taken), sequences)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _eca(h: Tensor) -> Tensor:
    weights = F.conv1d(h.mean(1, keepdim=True), torch.ones(1, 1, 3) / 3, padding=1)
    return h * weights.sigmoid()


CASES = [
    over("cumsum", lambda h: h.cumsum(-1)),
    over("cumprod", lambda h: h.cumprod(-1)),
    over("logcumsumexp", lambda h: h.logcumsumexp(-1)),
    over("cummax", lambda h: h.cummax(-1).values),
    over("cummin", lambda h: torch.cummin(h, -1)[0]),
    over("differences", lambda h: h.diff(dim=-1)),
    over("trapezoids", lambda h: torch.cumulative_trapezoid(h, dim=-1)),
    over("sort", lambda h: h.sort(-1)[0]),
    over("argsort", lambda h: h.argsort(-1)),
    over("topk", lambda h: h.topk(4, -1)[0]),
    over("argmax", lambda h: h * h.argmax(-1, keepdim=True)),
    over("kthvalue", lambda h: h * h.kthvalue(3, -1, keepdim=True)[0]),
    over("median", lambda h: h * h.median(-1, keepdim=True)[0]),
    over("max with places", lambda h: h + h.max(-1, keepdim=True)[1]),
    over("buckets", lambda h: h + torch.bucketize(h, torch.tensor([-1.0, 0.0, 1.0]))),
    over("flip", lambda h: h.flip(-1)),
    over("roll", lambda h: h.roll(2, -1)),
    over("convolution", _eca),
    over("window", lambda h: F.avg_pool1d(h, 3, 1, 1)),
    over("resampling", lambda h: F.interpolate(h, size=24, mode="linear")),
    over("Fourier transform", lambda h: torch.fft.rfft(h, dim=-1).abs()),
    over("local response", lambda h: F.local_response_norm(h.transpose(1, 2), 3).transpose(1, 2)),
    over("numbers added", lambda h: h + torch.arange(WIDTH)),
    over("waves added", lambda h: h + torch.sin(torch.arange(WIDTH) / 3.0)),
    over("one-hot", lambda h: F.one_hot(h.argmax(-1), WIDTH)),
    over(
        "cross product", lambda h: torch.linalg.cross(h.unflatten(-1, (4, 3)), h.unflatten(-1, (4, 3)).roll(1, -2)).flatten(2)
    ),
    over("rotation of pairs", lambda h: torch.stack((-h[..., 1::2], h[..., ::2]), -1).flatten(-2)),
    tokens("causal attention", _attention),
    tokens("cumsum", lambda q, k, v: (q + k + v).cumsum(1)),
    tokens("logcumsumexp", lambda q, k, v: (q + k + v).logcumsumexp(1)),
    tokens("triangle", lambda q, k, v: (q @ k.transpose(1, 2)).tril() @ v),
    tokens("attention without order", lambda q, k, v: F.scaled_dot_product_attention(q, k, v)),
    Case("causal attention to a memory", lambda: Memory(causal=True), sequences),
    Case("attention to a memory", lambda: Memory(causal=False), sequences),
    Case("a causal mask longer than the example", Masked, sequences),
    table("a slice of a table", lambda t, x: t[: x.shape[1]]),
    table("the end of a table", lambda t, x: t[-x.shape[1] :]),
    table("a part of a table by narrow", lambda t, x: t.narrow(0, 2, x.shape[1])),
    table("numbers of a table", lambda t, x: t[torch.arange(x.shape[1])]),
    table("numbers selected", lambda t, x: t.index_select(0, torch.arange(x.shape[1], device=x.device))),
    table("a table parted", lambda t, x: torch.split(t, [x.shape[1], 32 - x.shape[1]])[0]),
    table("one entry by size", lambda t, x: t[x.shape[1]]),
]
