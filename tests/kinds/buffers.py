"""Buffers and parameters that forward writes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, rows

__all__ = ["CASES"]


class Base(nn.Module):
    """Two layers and some buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("seen", torch.zeros(3), persistent=False)


class Counts(Base):
    """A counter in each call."""

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.b(self.c(self.a(x)))  # type: ignore[no-any-return]


class CountsInTraining(Base):
    """A counter in training."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count.add_(1)
        return self.b(self.c(self.a(x)))  # type: ignore[no-any-return]


class Average(Base):
    """A moving average of what passes, in training, which evaluation subtracts."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
        return self.b(self.c(h - self.mean))  # type: ignore[no-any-return]


class Always(Base):
    """The same in every call, by copy_."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.mean.copy_(0.5 * self.mean + 0.5 * h.detach().mean(0))
        return self.b(self.c(h - self.mean))  # type: ignore[no-any-return]


class Assigned(Base):
    """A buffer is another tensor afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return self.b(self.c(h - self.mean))  # type: ignore[no-any-return]


class Registered(Base):
    """A buffer is made in forward."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.register_buffer("last", h.detach())
        return self.b(self.c(h))  # type: ignore[no-any-return]


class Slot(Base):
    """One entry of a buffer."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.seen[1] = h.detach().mean()
        return self.b(self.c(h)) + self.seen.sum()  # type: ignore[no-any-return]


class Weights(Base):
    """A weight is changed before it is used."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.a.weight.clamp_(-0.5, 0.5)
        return self.b(self.c(self.a(x)))  # type: ignore[no-any-return]


class Unread(Base):
    """A buffer that is only written."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        with torch.no_grad():
            self.mean.lerp_(h.mean(0), 0.1)
            torch.add(self.seen, 1.0, out=self.seen)
        return self.b(self.c(h))  # type: ignore[no-any-return]


class Table(Base):
    """A buffer is made anew where it is of another size: relative places of so many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.zeros(1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.places.shape[1] != h.shape[1]:
            self.places = torch.arange(h.shape[1]).view(1, -1) * 0.1
        return self.b(self.c(h)) + self.places.sum()  # type: ignore[no-any-return]


class Biases(Base):
    """In evaluation, what is made of weights alone is kept by device."""

    def __init__(self) -> None:
        super().__init__()
        self.biases, self.kept = nn.Parameter(torch.ones(4)), {}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.b(self.c(self.a(x))) + self.biases[[0, 2, 1, 3]]  # type: ignore[no-any-return]
        key = str(x.device)
        if key not in self.kept:
            self.kept[key] = self.biases[[0, 2, 1, 3]]
        return self.b(self.c(self.a(x))) + self.kept[key]  # type: ignore[no-any-return]


CASES = [
    Case("a table of another size", Table, rows),
    Case("biases kept by device", Biases, rows),
    Case("a counter", Counts, rows),
    Case("a counter in training", CountsInTraining, rows),
    Case("a moving average in training", Average, rows),
    Case("a moving average always", Always, rows),
    Case("a buffer assigned", Assigned, rows),
    Case("a buffer registered", Registered, rows, refused="makes the buffer 'last'"),
    Case("one entry of a buffer", Slot, rows),
    Case("a weight", Weights, rows),
    Case("buffers that are only written", Unread, rows),
]
