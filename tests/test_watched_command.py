"""``fxprune prune --form module``: models that no graph can hold, from a shell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fxprune
from fxprune.cli.app import main
from fxprune.inputs.models import load_model

SOURCE = """
import torch
from torch import nn


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.easy, self.hard = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 16, 1), nn.Conv2d(24, 16, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.easy(x).relu() if x.max() < 2 else self.hard(x).tanh()
        return self.head(x.mean((2, 3)))


def make():
    torch.manual_seed(0)
    return Router()
"""


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    return int(stopped.value.code or 0)


@pytest.mark.slow
def test_a_model_without_a_graph_is_pruned_stored_and_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "router.py").write_text(SOURCE)
    model, out = f"{tmp_path / 'router.py'}:make", tmp_path / "slim"
    given = ["prune", model, "--ratio", "0.5", "--input-size", "3x8x8"]
    assert run(*given, "--form", "module", "--out", out) == 0
    assert "was watched while it ran" in " ".join(capsys.readouterr().out.split())
    assert run("apply", model, out, "--form", "module") == 0
    assert run("apply", model, out) == 2
    assert "--form module" in " ".join(capsys.readouterr().err.split())
    original = load_model(model)
    slim = fxprune.restore(original, out)
    assert type(slim).__name__ == "Router" and slim.stem.out_channels < 24
    assert slim(torch.randn(2, 3, 9, 9)).shape == (2, 3)


def test_what_comes_before_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prune", "timm:test_resnet", "--ratio", 0.5, "--form", "module", "--plan-only") == 2
    assert "--form module comes last" in " ".join(capsys.readouterr().err.split())
