"""Chance that can be repeated: every draw of a run is decided by the run's seed and by what it is for.

Before a batch is read and before a step is done, the global generators of Python, NumPy and PyTorch are seeded with
``digest(seed, what, number of the step, ...)``. So no state of a generator needs to be stored: a run that goes on from
step 1,000 draws in step 1,000 what the run that was not stopped drew there.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from fxprune.tracing.untouched import seed_all

__all__ = ["generator", "kept", "number", "seed_everything"]


def number(*what: int | str) -> int:
    """A whole number below 2**63 that stands for `what`.

    >>> number(0, "order", 1) == number(0, "order", 1), number(0, "order", 1) == number(0, "order", 2)
    (True, False)
    """
    text = "/".join(map(str, what)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*what: int | str) -> torch.Generator:
    """A generator of its own, on the CPU, for `what`."""
    return torch.Generator().manual_seed(number(*what))


def seed_everything(*what: int | str, devices: bool = True) -> None:
    """Seed the global generators for `what`.

    Args:
        devices: those of accelerators, too.
    """
    seed_all(number(*what), devices)


@contextmanager
def kept() -> Iterator[None]:
    """Afterwards the global generators are where they were."""
    states = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
