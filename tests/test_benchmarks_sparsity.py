"""The benchmark of sparse learning: what it writes of rows, and that a run goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sparsity


def row(method: str, settings: str, seed: int, cut: float, chosen: float, reported: float, **more: Any) -> dict[str, Any]:
    shared = {
        "network": "net",
        "epochs": 1,
        "lr": 0.1,
        "train": 64,
        "criterion": "l2" if cut else "",
        "scope": "layer" if cut else "",
    }
    return {
        **shared,
        "method": method,
        "settings": settings,
        "seed": seed,
        "cut": cut,
        "chosen_on": chosen,
        "reported_on": reported,
        **more,
    }


def test_one_half_chooses_and_the_other_is_told() -> None:
    rows = []
    for seed, off in ((0, 0.0), (1, 0.02)):
        rows += [row("none", "{}", seed, 0.0, 0.9, 0.91), row("none", "{}", seed, 0.5, 0.3, 0.32 + off)]
        for strength, chosen, reported in ((1, 0.7, 0.75), (2, 0.8, 0.6)):  # the second would not be taken by the reported half
            rows += [row("group", json.dumps({"strength": strength}), seed, 0.0, 0.9, 0.85)]
            rows += [row("group", json.dumps({"strength": strength}), seed, 0.5, chosen, reported + off)]
    lines = sparsity.table(rows)
    assert "| none | 33.0 ± 1.4 (l2, layer) | 91.0 ± 0.0 |" in lines
    assert "| group | 61.0 ± 1.4 (strength 2, l2, layer) | 85.0 ± 0.0 |" in lines


@pytest.mark.slow
def test_it_runs_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs the extra `demo`")
    options = ["--epochs", "1", "--seeds", "1", "--train", "64", "--width", "4", "--cuts", "0.5", "--out", str(tmp_path)]
    sparsity.main([*options, "--methods", "none"])
    rows = (tmp_path / "sparsity.jsonl").read_text().splitlines()
    assert len(rows) == 1 + 3 * 2
    sparsity.main([*options, "--methods", "none", "admm, progressive", "scp"])
    assert (tmp_path / "sparsity.jsonl").read_text().splitlines()[: len(rows)] == rows
    found = [json.loads(line) for line in (tmp_path / "sparsity.jsonl").read_text().splitlines()]
    assert len(found) == 7 * 7 and all(abs(r["macs"] - r["cut"]) < 0.1 for r in found)
    assert (tmp_path / "sparsity.md").read_text().count("\n| ") == 4
