"""Inputs that are no tensors, or hold tensors in objects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, output_of_transformers, with_transformers

__all__ = ["CASES", "Takes"]


@dataclass
class Sample:
    x: Any
    scale: float = 2.0
    more: Any = None


class Pair(NamedTuple):
    x: Any
    y: Any


class Takes(nn.Module):
    """``a`` (8 -> 16) and ``b`` (16 -> 4) on what `read` makes of the inputs."""

    def __init__(self, read: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.read = nn.Linear(8, 16), nn.Linear(16, 4), read

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        return self.b(self.a(self.read(*inputs, **named)).relu())


def takes(name: str, read: Callable[..., Tensor], *others: Any) -> Case:
    """A case whose inputs are ``(x, *others)``; functions among these are called with x."""

    def inputs(batch: int) -> tuple[Any, ...]:
        x = torch.randn(batch, 8)
        return (x, *(other(x) if callable(other) else other for other in others))

    return Case(name, lambda: Takes(read), inputs)


def base_output(x: Tensor) -> Any:
    return output_of_transformers("BaseModelOutput", last_hidden_state=x)


def only(name: str, read: Callable[[Any], Tensor], make: Callable[[Tensor], Any]) -> Case:
    """A case with one input, which holds all."""
    return Case(name, lambda: Takes(read), lambda batch: (make(torch.randn(batch, 8)),))


CASES = [
    takes("a number in arithmetic", lambda x, s: x * s, 0.5),
    takes("a number that decides", lambda x, n: x * 2 if n > 1 else x, 2),
    takes("a float that decides", lambda x, s: x * s if s > 0.1 else x, 0.5),
    takes("a flag", lambda x, flag: x * 2 if flag is True else x, True),
    takes("a text", lambda x, mode: x * {"train": 2, "test": 3}[mode], "test"),
    takes("none", lambda x, mask: x if mask is None else x * mask, None),
    takes("a number of repetitions", lambda x, n: sum(x * i for i in range(n)), 3),
    takes("flags in a dict", lambda x, options: x * 2 if options["double"] else x, {"double": True, "n": 1}),
    takes("a tensor or none", lambda x, mask: x if mask is None else x * mask, lambda x: x > 0),
    takes("more by place", lambda x, *more: x + more[0] * more[1], lambda x: x * 2, 3),
    only("dataclass", lambda s: s.x * s.scale if s.more is None else s.x, Sample),
    only("dataclass with tensors inside", lambda s: s.x + s.more["y"][0], lambda x: Sample(x, 1.0, {"y": [x * 2]})),
    only(
        "ModelOutput",
        lambda o: o.last_hidden_state + o[0] + o["last_hidden_state"],
        lambda x: base_output(x),
    ),
    only("dict", lambda d: torch.stack(list(d.values())).sum(0), lambda x: {"x": x, "y": x * 2}),
    only("dict unpacked", lambda d: (lambda x, y: x - y)(**d), lambda x: OrderedDict(x=x, y=x * 2)),
    only("list", lambda xs: sum(xs), lambda x: [x, x * 2, x * 3]),
    only("named tuple", lambda p: p.x + p[1] + p._asdict()["y"], lambda x: Pair(x, x * 2)),
    only("tuple in a list", lambda v: v[0][0] + v[0][1], lambda x: [(x, x)]),
]
CASES = with_transformers(CASES)
