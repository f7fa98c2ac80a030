"""What users of other pruning tools complained of: the name says the project and the thread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import assert_same, run
from networks import image
from threads import THREADS
from threads.base import PlainCnn

import fxprune
from fxprune.proofs.randomize import randomize
from tests.kinds import sampled

# Which test_couplings_written.py tries, in one process for all networks.
SLOW = {"TP#51 NNI#2097 saved model loads without the tool"}
NAMES = [pytest.param(name, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name in THREADS]


@pytest.mark.parametrize("name", sampled(NAMES, 6))
def test_thread(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    THREADS[name](tmp_path)


def test_same_seed_same_bits() -> None:
    """The threads compare bits: so must two runs of one call."""
    model = randomize(PlainCnn())
    first, second = (fxprune.prune(model, 0.5, image(2), criterion="random", seed=7) for _ in range(2))
    assert_same(run(first, (image(2),)), run(second, (image(2),)))
    assert first.meta["fxprune"].plan.to_json() == second.meta["fxprune"].plan.to_json()
