"""Batches of one, and what forward does with the number of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case, images, net, rows

__all__ = ["CASES"]


class Conv(nn.Module):
    """``a`` (3 -> 16 channels), what the user wrote between, and ``b`` (16 -> 4) on its mean over places."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)
        self.between = between
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x)))


def conv(between: Callable[[nn.Module, Tensor], Tensor], **parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Makes a `Conv`."""
    return lambda: Conv(between, **{k: make() for k, make in parts.items()})


def one(name: str, make: Callable[[], nn.Module], inputs: Callable[[int], tuple[Any, ...]] = images, **more: Any) -> Case:
    """A case recorded with one sample, that must do as the model does with more."""
    return Case(name, make, inputs, batches=(1, 3, 4), **more)


def _grouped(model: nn.Module, h: Tensor) -> Tensor:
    return h.view(h.shape[0], 8, -1).tanh().view(h.shape[0], 16, -1).mean(-1)


def _heads(model: nn.Module, h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    h = h.reshape(batch * 4, channels // 4, height * width)
    h = (h.transpose(1, 2) @ h).softmax(-1) @ h.transpose(1, 2)
    return h.transpose(1, 2).reshape(batch, channels, height, width).mean((2, 3))


def _windows(model: nn.Module, h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    h = h.view(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, channels)
    h = h - h.mean(1, keepdim=True).tanh()
    h = h.view(batch, height // 4, width // 4, 4, 4, channels).permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)
    return h.amax((2, 3))


class Token(nn.Module):
    """A learned token before the places of a map, and attention over all."""

    def __init__(self, spread: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 4)
        self.token, self.qkv, self.spread = nn.Parameter(torch.randn(1, 1, 16)), nn.Linear(16, 48), spread

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).flatten(2).transpose(1, 2)
        h = torch.cat((self.spread(self.token, h), h), 1)
        batch, tokens, channels = h.shape
        q, k, v = self.qkv(h).reshape(batch, tokens, 3, 2, 8).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, channels)
        return self.b(h[:, 0])


class Sequence(nn.Module):
    """Time before samples, as recurrent layers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.rnn, self.b = nn.Linear(8, 16), nn.GRU(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        time, batch, _ = x.shape
        h = self.a(x).view(time, batch, 4, 4).relu().flatten(2)
        h, state = self.rnn(h, state)
        return self.b(h.reshape(time * batch, -1)).view(time, batch, 4), state


def _sequences(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(5, batch, 8), torch.randn(1, batch, 8)


class Nested(nn.Module):
    """Inputs in a dict, one of which has no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.p, self.b = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: dict[str, Tensor], places: Tensor) -> Tensor:
        h = self.a(x["left"]) * self.a(x["right"]) + self.p(places)
        return self.b(h.view(h.size(0), 6, 2, 8).transpose(1, 2).reshape(h.size(0), 2, -1, 8).transpose(1, 2).flatten(2)).sum(1)


def _nested(batch: int) -> tuple[Any, ...]:
    return {"left": torch.randn(batch, 6, 8), "right": torch.randn(batch, 6, 8)}, torch.randn(6, 8)


def _one_way(model: nn.Module, h: Tensor) -> Tensor:
    if h.shape[0] == 1:
        return h.squeeze(0).mean((1, 2)).unsqueeze(0)
    return h.mean((2, 3))


def _no_matter(model: nn.Module, h: Tensor) -> Tensor:
    dims = [2, 3] if h.shape[0] > 1 else [3, 2]
    return h.mean(sorted(dims))


def _mask(model: nn.Module, h: Tensor) -> Tensor:
    mask = torch.ones(1, 1, h.shape[2], h.shape[3], device=h.device).tril()
    if mask.size(0) != h.size(0):
        mask = mask.expand(h.size(0), -1, -1, -1)
    return (h * mask).mean((2, 3))


def _loop(model: nn.Module, h: Tensor) -> Tensor:
    return torch.stack([h[i].mean((1, 2)) for i in range(h.shape[0])])


def _length_of_number(model: nn.Module, h: Tensor) -> Tensor:
    try:
        return h.mean((2, 3)) * len(h.sum())
    except TypeError:
        return h.mean((2, 3))


class Unbatched(nn.Module):
    """An image of one channel without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h.view(16, h.shape[1], h.shape[2]).relu())


CASES = [
    one("view of the batch", conv(_grouped)),
    one("heads folded into the batch", conv(_heads)),
    one("windows", conv(_windows)),
    one("mean over places", conv(lambda m, h: h.flatten(2).mean(-1))),
    one("squeeze of places", conv(lambda m, h: F.adaptive_avg_pool2d(h, 1).squeeze(-1).squeeze(-1))),
    one("squeeze of two axes", conv(lambda m, h: F.adaptive_avg_pool2d(h, 1).squeeze((2, 3)))),
    one("flatten with numbers", conv(lambda m, h: F.adaptive_avg_pool2d(h, 1).view(h.size(0), 16))),
    one("places as rows", conv(lambda m, h: h.permute(0, 2, 3, 1).reshape(-1, 16).tanh().view(h.shape[0], -1, 16).mean(1))),
    one(
        "rows by a product of sizes",
        conv(
            lambda m, h: h.permute(0, 2, 3, 1).reshape(h.shape[0] * h.shape[2] * h.shape[3], 16).view(h.size(0), -1, 16).sum(1)
        ),
    ),
    one(
        "number of entries over channels",
        conv(lambda m, h: h.permute(0, 2, 3, 1).reshape(h.numel() // 16, 16).view(h.size(0), -1, 16).sum(1)),
    ),
    one("sizes passed on", conv(lambda m, h: h.view(h.size()).amax((2, 3)))),
    one("sizes added", conv(lambda m, h: h.mean((2, 3)).view(h.shape[:1] + torch.Size((16,))))),
    one("zeros of its shape", conv(lambda m, h: (h + h.new_zeros(h.shape)).amax((2, 3)))),
    one("ones of a part of its shape", conv(lambda m, h: (h * h.new_ones(h.shape[0], 1, 1, 1)).amax((2, 3)))),
    one("arange over samples", conv(lambda m, h: h.amax((2, 3)) + torch.arange(h.shape[0]).view(-1, 1) * 0.5)),
    one("a token expanded", lambda: Token(lambda t, h: t.expand(h.shape[0], -1, -1))),
    one("a token repeated", lambda: Token(lambda t, h: t.repeat(h.shape[0], 1, 1))),
    one("a token expanded where needed", lambda: Token(lambda t, h: t if h.shape[0] == 1 else t.expand(h.shape[0], -1, -1))),
    one("two branches of one outcome", conv(_no_matter)),
    one("a mask expanded where needed", conv(_mask)),
    one("time before samples", Sequence, _sequences),
    one("inputs in a dict", Nested, _nested),
    one("rows", net(lambda m, h: h.view(h.shape[0], 16, 1).relu().view(h.shape[0], -1)), rows),
    Case("one sample goes another way", conv(_one_way), images, batches=(3, 4, 2)),
    Case(
        "one number among several",
        conv(lambda m, h: h.mean((2, 3)) * (2 if h.shape[0] in (1, 2) else 3)),
        images,
        batches=(3, 4),
    ),
    Case("length as a flag", conv(lambda m, h: h.mean((2, 3)) if len(h) else h.amax((2, 3))), images),
    Case("length as a size", conv(lambda m, h: h.reshape(len(h), 4, -1).mean(2).repeat(1, 4)), images),
    Case(
        "length as a divisor",
        conv(lambda m, h: (h.sum(0, keepdim=True) / len(h)).expand(len(h), -1, -1, -1).amax((2, 3))),
        images,
    ),
    Case("length in a branch", conv(lambda m, h: h.mean((2, 3)) if len(h) > 1 else h.amax((2, 3))), images, batches=(3, 2, 4)),
    Case("length of a number", conv(_length_of_number), images),
    Case("as many parts as half the samples", conv(lambda m, h: torch.cat(h.split(max(len(h) // 2, 1))).amax((2, 3))), images),
    Case("a bias for each sample", net(lambda m, h: torch.stack([m.a.bias] * len(h)) + h), rows),
    Case("a loop over samples", conv(_loop), images, batches=(1,)),
    Case("a loop over three samples", conv(_loop), images, batches=(3,)),
    Case("no batch", Unbatched, lambda _: (torch.randn(1, 8, 8),), batches=(1, 1)),
]
