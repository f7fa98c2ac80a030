"""What the tests of the table share: registration, pruning with every proof, and a small network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers import parameters_of, run, tensors_of
from networks import NETWORKS, conv
from torch import Tensor, nn

import fxprune
from fxprune.proofs.randomize import randomize

Case = Callable[[Path], None]
THREADS: dict[str, Case] = {}


def thread(name: str) -> Callable[[Case], Case]:
    """Register a test under the thread that it answers, e.g. ``"TP#146 same tensor concatenated twice"``."""

    def register(case: Case) -> Case:
        assert name not in THREADS
        THREADS[name] = case
        return case

    return register


def proved(model: nn.Module, ratio: float, inputs: tuple[Any, ...], **options: Any) -> Any:
    """Prune `model` with random weights; outputs keep their shapes, and every proof holds to 1e-9."""
    model = randomize(model, 1).double()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    slim = fxprune.prune(model, ratio, inputs, **options)
    checks = fxprune.verify(model, slim, latency=False)
    assert checks.passed and checks.tolerance <= 1e-9
    shapes = [t.shape for t in tensors_of(run(model, inputs))]
    assert [t.shape for t in tensors_of(run(slim, inputs))] == shapes
    assert parameters_of(slim) < parameters_of(model)
    return slim


def proved_network(name: str, ratio: float = 0.5, **options: Any) -> Any:
    net = NETWORKS[name]
    torch.manual_seed(0)
    return proved(net.build(), ratio, net.inputs(2), **options)


class PlainCnn(nn.Module):
    """conv-bn-relu twice, with a residual, and a classifier."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = conv(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 2 * width)
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = x + torch.relu(self.bn2(self.conv2(x)))
        found: Tensor = self.fc(torch.relu(self.conv3(x)).mean((2, 3)))
        return found
