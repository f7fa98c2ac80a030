"""Costs by layer: three counts side by side."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.cli.app import main
from fxprune.errors import InputError, PlanMismatch


class Net(nn.Module):
    """A convolution, a norm, a product outside of layers, a linear layer and a parameter of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head, self.scale = nn.Linear(8, 2), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).flatten(2)
        x = torch.softmax(x.transpose(1, 2) @ x, -1) @ x.transpose(1, 2)
        return self.head(x.mean(1)) * self.scale


X = torch.zeros(2, 3, 4, 4)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def test_layers_cost_what_they_multiply(model: nn.Module) -> None:
    slim = fxprune.prune(model, 0.5, X)
    found = fxprune.costs(model, slim)
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["conv"].macs == by_name["conv"].flop_counter == (16 * 27 * 8, 16 * 27 * 4)
    assert by_name["head"].macs == (16, 8) and by_name["head"].params == (18, 10)
    assert by_name["(functions)"].macs == by_name["(functions)"].flop_counter == (2 * 16 * 16 * 8, 2 * 16 * 16 * 4)
    assert by_name["(functions)"].params == (2, 2) and by_name["norm"].params == (16, 8)
    report = slim.meta["fxprune"]
    assert found.total.macs == report.plan.macs and found.total.params == report.plan.params
    assert found.to_dict()["total"]["name"] == "total" and found.slim
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "MACs", "flop_counter", "thop", "parameters"]
    assert any((line.startswith("conv ") and "3,456 -> 1,728" in line) or "3.46 -> 1.73 k" in line for line in lines)


def test_thop_counts_norms_and_says_so(model: nn.Module) -> None:
    pytest.importorskip("thop", reason="thop is not installed")
    found = fxprune.costs(model, example_inputs=X)
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["conv"].thop == (16 * 27 * 8, 0) and not by_name["conv"].why
    assert (
        by_name["norm"].macs == (0, 0)
        and by_name["norm"].thop[0] > 0
        and by_name["norm"].why == "thop counts more than products"
    )
    assert not found.notes and not found.slim


def test_without_thop_the_others_are_told(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "thop", None)
    found = fxprune.costs(model, fxprune.plan(model, 0.5, X))
    assert all(layer.thop is None for layer in (*found.layers, found.total))
    assert len(found.notes) == 1 and "thop was left out: " in str(found)


def test_what_comes_from_elsewhere_is_refused(model: nn.Module) -> None:
    stranger: Any = nn.Linear(3, 4)
    with pytest.raises(InputError, match="slim must be what prune"):
        fxprune.costs(model, stranger, X)
    with pytest.raises(PlanMismatch):
        fxprune.costs(model, fxprune.plan(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), 0.5, torch.zeros(1, 4)))


def test_the_command_prints_a_table(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))\n"
    )
    with pytest.raises(SystemExit):
        main(["inspect", f"{tmp_path / 'nets.py'}:net", "--costs", "--input-size", "6", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert [(layer["name"], layer["macs"][0]) for layer in document["layers"]] == [("0", 48), ("1", 16)]
