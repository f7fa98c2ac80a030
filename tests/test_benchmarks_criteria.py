"""The criteria benchmark runs, on the smallest network and a handful of made-up images."""

from __future__ import annotations

import io
import json
from pathlib import Path

import criteria
import numpy as np
import pytest
import ranking
import torch
from criteria_table import claims
from models import CifarResNet
from PIL import Image
from safetensors.torch import save_file
from test_benchmarks import run

CRITERIA = ["aura_mi", "hrank", "hrel", "l1", "operator_norm"]


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Random images in the format that `criteria_data` reads, and the weights of a ResNet-8."""
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 10)):
        files = []
        for _ in range(count):
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "jpeg")
            files.append(np.frombuffer(file.getvalue(), np.uint8))
        offset = np.cumsum([0, *map(len, files)])
        labels = np.arange(count, dtype=np.uint8) % 10
        np.savez(tmp_path / f"cifar10-jpeg-{split}.npz", jpeg=np.concatenate(files), offset=offset, label=labels)
    save_file(CifarResNet(8).state_dict(), tmp_path / "resnet8.safetensors")
    return tmp_path


def measure(out: Path, *arguments: object) -> list[dict]:
    given = ["--criteria", *CRITERIA, "--networks", "dcase21", "--images", 1, 2, "--out", out, *arguments]
    criteria.main([str(argument) for argument in given])
    return [json.loads(line) for line in (out / "criteria.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_cost_accuracy_and_stability(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "limited", lambda work, *limits: work())
    options = ["--data", cifar, "--weights", cifar / "resnet8.safetensors", "--cuts", 0.5, "--scopes", "layer"]
    options += ["--calibration", 10, "--stability", 20, "--test", 10]
    found = measure(cifar / "out", *options)
    cost = [(r["criterion"], r["images"]) for r in found if r["part"] == "cost"]
    assert cost == [*((c, n) for c in CRITERIA[:3] for n in (1, 2)), ("l1", 0), ("operator_norm", 0)]
    accuracy = {r["criterion"]: r for r in found if r["part"] == "accuracy"}
    assert list(accuracy) == ["none", *CRITERIA]
    assert all(0 <= r["accuracy"] <= 1 for r in accuracy.values())
    assert all(r["macs"] == pytest.approx(0.5, abs=0.05) for name, r in accuracy.items() if name != "none")
    stability = [r for r in found if r["part"] == "stability"]
    assert len(stability) == 3 * 4  # criteria that read data, disturbances
    assert all(-1 <= r["least"] <= r["mean"] <= 1 for r in stability)
    text = (cifar / "out" / "criteria.md").read_text()
    assert "ResNet-8: accuracy before fine-tuning, CIFAR-10 (JPEG q75)" in text
    assert "| operator_norm | " in text
    assert json.loads((cifar / "out" / "criteria.json").read_text())["rows"] == found
    assert measure(cifar / "out", *options) == found  # what is there is not measured again


def test_rankings_of_all_channels(cifar: Path) -> None:
    options = ["--data", cifar, "--weights", cifar / "resnet8.safetensors", "--criteria", "l2", "random", "--seeds", 2]
    options += ["--normalizations", "max", "none", "--cuts", 0.5, "--calibration", 10, "--test", 8, "--out", cifar / "out"]
    ranking.main([str(option) for option in options])
    log = cifar / "out" / "ranking.jsonl"
    found = [json.loads(line) for line in log.read_text().splitlines()]
    cells = [(r["criterion"], r["seed"], r["reduction"], r["normalization"]) for r in found]
    kinds = [(reduction, how) for reduction in ("mean", "rank") for how in ("max", "none")]
    assert cells == [(name, seed, *kind) for name, seed in (("l2", 0), ("random", 0), ("random", 1)) for kind in kinds]
    assert all(r["macs"] == pytest.approx(0.5, abs=0.06) and 0 <= r["chosen_on"] <= 1 for r in found)
    text = (cifar / "out" / "ranking.md").read_text()
    assert "## ResNet-8, 50% fewer MACs" in text and "| random | rank | " in text
    ranking.main([str(option) for option in options])  # what is there is not measured again
    assert len(log.read_text().splitlines()) == len(found)


def test_what_is_chosen_on_one_half_is_reported_on_the_other() -> None:
    def row(reduction: str, one: float, other: float, seed: int = 0) -> dict:
        shared = {"network": "n", "criterion": "c", "cut": 0.3, "images": 1, "test": 2, "normalization": "max", "seed": seed}
        return {**shared, "reduction": reduction, "chosen_on": one, "reported_on": other}

    rows = [row("mean", 0.5, 0.9), row("rank", 0.4, 0.1), row("rank", 0.8, 0.3, seed=1)]
    lines = next(line for line in ranking.table(rows) if line.startswith("| criterion")).splitlines()[2:]
    assert lines == ["| c | mean | 70.00 | rank max | 20.00 |", "| c | rank | 40.00 |  |  |"]


@pytest.mark.slow
def test_what_takes_too_long_is_stopped_and_not_tried_on_more_images(tmp_path: Path) -> None:
    options = ["--criteria", "chip", "--networks", "vgg16bn", "--images", 4, 50, "--seconds", 1, "--out", tmp_path]
    run("criteria.py", *options)
    found = [json.loads(line) for line in (tmp_path / "criteria.jsonl").read_text().splitlines()]
    assert [(r["images"], r["error"]) for r in found] == [(4, "over 1 s"), (50, "over 1 s")]
    assert "| chip | over 1 s | over 1 s |" in (tmp_path / "criteria.md").read_text()


def test_claims_compare_at_the_most_images() -> None:
    def row(criterion: str, images: int, **measured: float) -> dict:
        return {"part": "cost", "network": "n", "criterion": criterion, "images": images, **measured}

    found = claims(
        [
            row("operator_norm", 0, seconds=2.0),
            row("hrank", 100, seconds=3.0),
            row("hrank", 640, seconds=20.0),
            row("nuclear", 640, limit=60),
            row("aura_mi", 640, seconds=8.0),
            row("hrel", 640, seconds=4.0),
        ]
    )
    assert [(c["fast"], c["slow"], c["times"], c["more"]) for c in found] == [
        ("operator_norm", "hrank", 10.0, False),
        ("operator_norm", "nuclear", 30.0, True),
        ("aura_mi", "hrel", 0.5, False),
    ]


def test_missing_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    options = ["--parts", "accuracy", "--out", tmp_path]
    with pytest.raises(SystemExit):
        measure(tmp_path, *options)
    assert "accuracy and stability need --data and --weights" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="holds neither a CIFAR ResNet nor VGG-16"):
        measure(tmp_path, *options, "--data", tmp_path, "--weights", tmp_path / "other.safetensors")
