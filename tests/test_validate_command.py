"""``fxprune validate``: what it reads, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fxprune
from fxprune.cli.app import main
from fxprune.inputs.data import load_data
from fxprune.inputs.models import load_model

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def first(output, labels):
    return output[:, 0]

class Mean:
    def __init__(self): self.reset()
    def reset(self): self.seen = []
    def update(self, output, labels): self.seen.append(output.mean())
    def compute(self): return torch.stack(self.seen).mean()
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETS)
    return f"{tmp_path / 'nets.py'}:Net"


@pytest.fixture
def slim(net: str, tmp_path: Path) -> Path:
    fxprune.save(fxprune.prune(load_model(net).eval(), 0.5, torch.zeros(2, 1, 8, 8)), tmp_path / "slim")
    return tmp_path / "slim"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["validate", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


def test_json_is_what_python_says(run: Any, net: str, slim: Path) -> None:
    data = ("--data", "digits:test", "--limit", 100, "--batch-size", 50, "--mean", 0.3)
    code, out, err = run(net, "--slim", slim, *data, "--no-latency", "--json")
    assert code == 0, err
    dense = load_model(net)
    loader = load_data("digits:test", dense, limit=100, batch_size=50, mean=[0.3])
    expected = fxprune.validate(dense, fxprune.load(slim), loader, latency=False).to_dict()
    document = json.loads(out)
    assert document.pop("data") == "digits:test" and document["images"] == 100
    assert document == json.loads(json.dumps(expected))


def test_a_table_of_several_models(run: Any, net: str, slim: Path, tmp_path: Path) -> None:
    fxprune.save(fxprune.prune(load_model(net).eval(), 0.2, torch.zeros(2, 1, 8, 8)), tmp_path / "other")
    both = ("--slim", slim, "--slim", tmp_path / "other")
    metrics = (
        "--metric",
        net.replace("Net", "first"),
        "--metric",
        net.replace("Net", "Mean"),
        "--loss",
        net.replace("Net", "first"),
    )
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(80) % 10)
    data = ("--data", tmp_path / "images.npz", "--input-size", "1x8x8", "--limit", 64)
    code, out, err = run(net, *both, *data, *metrics)
    assert code == 0, err
    head, names, *rows = out.splitlines()
    assert head.startswith("Net: 64 images, CPU") and names.split() == ["dense", "slim", "other"]
    assert {"top-1", "loss", "first", "Mean", "ms for 64 images"} <= {row.split("  ")[0] for row in rows}
    assert "Note: images are in [0, 1], not normalised" in out


def test_pruned_submodules(run: Any, net: str, tmp_path: Path) -> None:
    """Their files lie beside the plan; the weights are those of the files."""
    with pytest.raises(SystemExit):
        main(["prune", net, "--ratio", "0.5", "--submodule", "body", "--input-size", "1x8x8", "--out", str(tmp_path / "parts")])
    _, out, _ = run(net, "--slim", tmp_path / "parts", "--data", "digits:test", "--limit", 50, "--no-latency", "--json")
    first = json.loads(out)
    assert first["slim"][0]["params"] < first["dense"]["params"] and first["slim"][0]["against"]["distance"] > 0
    part = fxprune.load(tmp_path / "parts" / "body.py")
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.zero_()
    fxprune.save(fxprune.trace(part, torch.zeros(2, 1, 8, 8)), tmp_path / "parts" / "body.py")
    _, out, _ = run(net, "--slim", tmp_path / "parts", "--data", "digits:test", "--limit", 50, "--no-latency", "--json")
    assert json.loads(out)["slim"][0]["against"]["distance"] != first["slim"][0]["against"]["distance"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "digits"], "give --slim DIR"),
        (["--slim", "{slim}"], "--data, what to validate on"),
        (["--slim", "nowhere", "--data", "digits"], "nowhere"),
        (["--slim", "{slim}", "--data", "nowhere.npz"], "no file or folder"),
        (["--slim", "{slim}", "--data", "digits", "--confidence", "2"], "confidence"),
        (["--slim", "{slim}", "--data", "digits", "--metric", "nothing"], "file.py:NAME or module:NAME"),
        (["--slim", "{slim}", "--data", "digits", "--metric", "math:pie"], "did you mean 'pi'"),
        (["--slim", "{slim}", "--data", "digits", "--device", "abacus"], "--device 'abacus' cannot be used"),
    ],
)
def test_an_error_is_one_sentence(run: Any, net: str, slim: Path, options: list[str], said: str) -> None:
    code, out, err = run(net, *(option.format(slim=slim) for option in options))
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1, err
    assert said in err
