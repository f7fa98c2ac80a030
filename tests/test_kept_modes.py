"""What a model's own train() does to its parts, kept in the slim model, its copies and its source."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.kinds.norms import Block, NeverTrains, Parts


def _flags(model: nn.Module, names: tuple[str, ...]) -> list[list[bool]]:
    found = []
    for mode in (True, False):
        model.train(mode)
        found.append([model.get_submodule(name).training for name in names])
    return found


@pytest.mark.parametrize("kind", ["slim", "copy", "pickled", "saved"])
def test_the_slim_model_freezes_what_the_model_freezes(kind: str, tmp_path: Path) -> None:
    model = Block()
    slim = fxprune.prune(model, 0.5, torch.randn(2, 3, 8, 8))
    if kind == "copy":
        slim = copy.deepcopy(slim)
    elif kind == "pickled":
        slim = pickle.loads(pickle.dumps(slim))
    elif kind == "saved":
        slim = fxprune.load(fxprune.save(slim, tmp_path / "slim.py"))
    names = ("body.conv", "body.norm", "drop")
    assert _flags(slim, names) == _flags(model, names) == [[True, False, True], [False, False, False]]


def test_a_model_without_modes_has_none(tmp_path: Path) -> None:
    slim = fxprune.prune(NeverTrains(nn.BatchNorm2d(16)), 0.5, torch.randn(2, 3, 8, 8))
    assert _flags(slim, ("", "norm")) == [[False, False], [False, False]]
    loaded = fxprune.load(fxprune.save(slim, tmp_path / "slim.py"))
    assert _flags(loaded, ("", "norm")) == [[False, False], [False, False]]


class Whole(nn.Module):
    """Holds a part that freezes a norm, and does what no graph holds."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.head = Parts(nn.BatchNorm2d(16)), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.part(x)
        if y.sum() > 1e9:
            y = y * 2
        return self.head(y)


def test_a_pruned_submodule_freezes_what_it_froze() -> None:
    model = Whole()
    slim = fxprune.prune(model, 0.5, torch.randn(2, 3, 8, 8), submodules=["part"])
    assert _flags(slim, ("part.conv", "part.norm")) == _flags(model, ("part.conv", "part.norm"))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = nn.Sequential(Doubling()), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * 2 if self.training else self.layer(x)


def test_a_part_in_another_mode_stays_in_it() -> None:
    model = Branching()
    model.block.eval()
    x = torch.randn(2, 8)
    slim = fxprune.trace(model, x)
    assert torch.equal(slim(x), model(x))
