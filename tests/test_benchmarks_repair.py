"""The benchmarks of repairs run, on few and made-up images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import repair_images
import small_vit
from test_benchmarks import run
from test_benchmarks_criteria import cifar  # noqa: F401  (a fixture)


def test_the_table_of_images_says_mean_and_spread() -> None:
    head = {"network": "Net", "cut": 0.5, "test": 9}
    measured = {"seconds": 2.0, "wall": 3.0, "peak_mib": 10}
    rows = [
        {**head, "images": 0, "seed": 0, "dense": 0.9, "accuracy": 0.1},
        {**head, "images": 2000, "seed": 0, "accuracy": 0.87, **measured, "seconds": 50.04},
        *(
            {**head, "images": 20, "seed": seed, "accuracy": 0.6 + 0.1 * seed, **measured, "peak_mib": seed}
            for seed in range(3)
        ),
    ]
    text = "\n".join(repair_images.table(rows))
    assert "9 test images, before any training: dense 90.00 %, pruned 10.00 %" in text
    lines = [line for line in text.splitlines() if line.startswith("| 2")]
    assert lines == ["| 20 | 70.00 | ± 10.00 of 3 | 2.0 | 2 |", "| 2,000 | 87.00 | one | 50.0 | 10 |"]


def test_the_table_of_the_transformer_says_how_far_it_is_below() -> None:
    row = {"data": "digits", "test": 450, "images": 640, "dense": 0.97, "criterion": "l1", "exact_norms": True, "norms": 9}
    heads, *_, stream = small_vit.CUTS
    row |= {"macs": 0.5, "params": 0.4, "pruned": 0.2, "repaired": 0.951}
    rows = [{**row, "cut": stream}, {**row, "exact_norms": False, "cut": heads}]
    text = "\n".join(small_vit.table(rows))
    assert "Dense: 97.0 % of 450 test images" in text
    lines = [line for line in text.splitlines() if "fewer" in line]
    assert lines[0].startswith(f"| {heads} | l1 | plain |")
    assert lines[1] == f"| {stream} | l1 | exact | 50% fewer | 40% fewer | 20.0 | 95.1 | 1.9 |"


@pytest.mark.slow
def test_repair_images_measures_and_goes_on(cifar: Path) -> None:  # noqa: F811
    given = ("--data", cifar, "--weights", cifar / "resnet8.safetensors", "--test", 10, "--out", cifar)
    run("repair_images.py", *given, "--counts", 10)
    first = (cifar / "repair_images.jsonl").read_text()
    run("repair_images.py", *given, "--counts", 10, 20)
    assert (cifar / "repair_images.jsonl").read_text().startswith(first)
    rows = json.loads((cifar / "repair_images.json").read_text())["rows"]
    assert [(r["images"], r["seed"]) for r in rows] == [(0, 0), *((10, s) for s in range(3)), *((20, s) for s in range(3))]
    assert all(0 <= r["accuracy"] <= 1 for r in rows) and all(r["seconds"] > 0 for r in rows[1:])
    assert (cifar / "repair_images.md").read_text().count("\n| ") == 3


@pytest.mark.slow
def test_the_small_transformer_is_trained_once(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs the extra `demo`")
    given = ("--weights", tmp_path / "vit.safetensors", "--epochs", 1, "--images", 40, "--criteria", "l2", "--out", tmp_path)
    run("small_vit.py", *given)
    first = json.loads((tmp_path / "small_vit.json").read_text())["rows"]
    assert len(first) == 7 and {r["cut"] for r in first} == {*small_vit.CUTS} and sum(r["exact_norms"] for r in first) == 2
    run("small_vit.py", *given)
    assert [r["repaired"] for r in json.loads((tmp_path / "small_vit.json").read_text())["rows"]] == [
        r["repaired"] for r in first
    ]
