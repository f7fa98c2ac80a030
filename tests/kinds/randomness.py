"""Random numbers: torch's are part of the graph, all others are refused by name."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case, net, rows

__all__ = ["CASES"]


def _case(name: str, between: Any, refused: str = "", **parts: Any) -> Case:
    return Case(name, net(between, **parts), rows, refused=refused)


def _shuffled(model: nn.Module, h: Tensor) -> Tensor:
    order = [1, 2, 3]
    random.shuffle(order)
    return h * order[0]


def _own_generator(model: Any, h: Tensor) -> Tensor:
    return h * model.generator.random()


def _two_draws(model: nn.Module, h: Tensor) -> Tensor:
    scale = torch.rand(h.shape[0], 1)
    return h * scale + torch.randn_like(h[:, :1])


CASES = [
    _case("noise by rand", lambda m, h: h + torch.rand(h.shape[0], 1)),
    _case("noise without sizes of the input", lambda m, h: h * torch.rand(1)),
    _case("two draws in their order", _two_draws),
    _case("dropout always", lambda m, h: F.dropout(h, 0.5) if m.training else h),
    _case("a permutation of the batch", lambda m, h: h[torch.randperm(h.shape[0])]),
    _case("random.random", lambda m, h: h * random.random(), "random numbers of Python's random"),
    _case("random.randint", lambda m, h: h * random.randint(1, 9), "random numbers of Python's random"),
    _case("random.choice", lambda m, h: h * random.choice([1, 2, 3]), "random numbers of Python's random"),
    _case("random.shuffle", _shuffled, "random numbers of Python's random"),
    _case("np.random.rand", lambda m, h: h * float(np.random.rand()), "random numbers of numpy"),
    _case("np.random.randint", lambda m, h: h * int(np.random.randint(1, 9)), "random numbers of numpy"),
    _case("a generator of its own", _own_generator, r"keeps 'generator\.state'", generator=random.Random),
    _case("numpy's generator", lambda m, h: h * float(m.rng.random()), r"keeps 'rng\.state'", rng=np.random.default_rng),
    _case("numpy's older generator", lambda m, h: h * m.rng.rand(), r"keeps 'rng\.state'", rng=np.random.RandomState),
    _case("a draw that is read", lambda m, h: h * 2 if torch.rand(1).item() < 0.5 else h, "reads values"),
    _case("a draw in place", lambda m, h: h * torch.empty(1).uniform_(), "random numbers outside of the graph"),
]
