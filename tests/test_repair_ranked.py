"""What ranks channels where nobody said it: weights alone, or what the repair that follows cannot undo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.recovery.repair.ranked import CHOSEN, ranked

torch.set_num_threads(1)


@pytest.fixture
def net() -> nn.Module:
    """Whose large channels are copies of each other: l2 keeps them, and surgeon knows that one is enough."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].weight[:4] = 4 * model[0].weight[0]
        model[0].bias[:4] = 4 * model[0].bias[0]
    return model


X = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))


def kept(slim: Any) -> list[int]:
    return list(slim.meta["fxprune"].plan.group("0.weight").kept)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    for part in X.split(20):
        yield part, torch.zeros(len(part))


@pytest.mark.parametrize("images", [X, list(X.split(20)), batches()], ids=["tensor", "batches", "iterator"])
def test_images_of_the_repair_rank_too(net: nn.Module, images: Any) -> None:
    slim = fxprune.prune(net, 0.5, X[:1], repair=images)
    report = slim.meta["fxprune"]
    assert len([c for c in kept(slim) if c < 4]) == 1  # of the copies
    assert report.plan.options["criterion"] == "surgeon" and report.notes.count(CHOSEN) == 1
    assert sum(report.repair.images) == 200 and report.repair.after < report.repair.before
    assert CHOSEN in str(report) and CHOSEN in report.to_dict()["notes"]


def test_without_a_repair_weights_rank_and_a_choice_stands(net: nn.Module) -> None:
    plain, asked = fxprune.prune(net, 0.5, X[:1]), fxprune.prune(net, 0.5, X[:1], repair=X, criterion="l2")
    for slim in (plain, asked):
        assert {0, 1, 2, 3} <= {*kept(slim)} and CHOSEN not in slim.meta["fxprune"].notes
        assert slim.meta["fxprune"].plan.options["criterion"] == "l2"
    assert kept(fxprune.prune(net, 0.5, X[:1], criterion=None)) == kept(plain)


def test_data_that_are_given_rank(net: nn.Module) -> None:
    """Here they say nothing of the channels: all of their values are 0, and so are all losses."""
    nothing = [torch.zeros(4, 6)]
    slim = fxprune.prune(net, 0.5, X[:1], repair=X, data=nothing)
    assert kept(slim) == kept(fxprune.prune(net, 0.5, X[:1], criterion="surgeon", data=nothing))
    assert kept(slim) != kept(fxprune.prune(net, 0.5, X[:1], repair=X))
    assert ranked(None, nothing, X).data is nothing


def test_images_that_cannot_be_read_are_refused(net: nn.Module) -> None:
    for images, words in (
        (torch.zeros(()), "images"),
        (X[:0], "no"),
        (X[:, :5], "6"),
        (X * float("nan"), "finite"),
        (5, "images"),
    ):
        with pytest.raises(fxprune.InputError, match=words):
            fxprune.prune(net, 0.5, X[:1], repair=images)


def test_the_command_line_does_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fxprune.cli.app import main

    source = "import torch\nfrom torch import nn\n\ndef net():\n    torch.manual_seed(0)\n"
    source += "    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))\n"
    Path(tmp_path, "nets.py").write_text(source)
    np.savez(tmp_path / "images.npz", inputs=np.random.default_rng(0).normal(size=(200, 3, 1, 1)).astype("f"))
    given = ["prune", f"{tmp_path}/nets.py:net", "--ratio", "0.5", "--input-size", "3x1x1", "--json", "--no-verify"]

    def run(*more: str) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main([*given, "--data", f"{tmp_path}/images.npz", *more])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    found = run("--repair", "100")
    assert found["options"]["criterion"] == "surgeon" and CHOSEN in found["notes"]
    found = run("--repair", "100", "--criterion", "l2")
    assert found["options"]["criterion"] == "l2" and CHOSEN not in found["notes"]
    assert run()["options"]["criterion"] == "l2"
