"""Repairs of several kinds, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import repairs
import torch
from test_benchmarks_criteria import cifar  # noqa: F401  # a fixture
from torch import nn

import fxprune
from fxprune.recovery.repair.chunks import chunks_of
from fxprune.recovery.repair.pair import Pair
from fxprune.recovery.repair.repairing import Settings

torch.set_num_threads(1)


def test_rows_resume_and_the_table_has_all_kinds(cifar: Path) -> None:  # noqa: F811
    options = ["--data", cifar, "--weights", cifar / "resnet8.safetensors", "--cuts", 0.5, "--images", 20, "--test", 10]
    options += ["--criteria", "l2", "--out", cifar / "out"]
    repairs.main([str(option) for option in options])
    log = cifar / "out" / "repairs.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["repair"] for r in rows] == ["dense", *repairs.KINDS]
    assert all(0 <= r["reported_on"] <= 1 and len(r["code"]) == 8 for r in rows)
    repairs.main([str(option) for option in options])  # what is there is not measured again
    assert len(log.read_text().splitlines()) == len(rows)
    assert (
        "| ranking | none | norms | scaling | merging | affine | layers | streams | whole | seconds of `whole` |"
        in "\n".join(repairs.table(rows))
    )


@pytest.mark.parametrize("kind", ["scaling", "merging", "affine"])
def test_a_channel_that_is_another_one_twice_is_made_up_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a factor, where its weights are the other's, too; by merging in any case, by an affine map with a constant, too."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)).eval()
    with torch.no_grad():
        for part in (model[0].weight, model[0].bias):
            part[3:] = 2 * part[:3]
        if kind == "affine":
            model[0].bias[3:] += 1
            monkeypatch.setattr(repairs, "_shrinkage", lambda *_: 0.0)
        if kind == "scaling":
            model[1].weight[:, 3:] = model[1].weight[:, :3]
    x = 30 * torch.randn(60, 3, 8, 8)  # beside which a ridge of 0.001 is small
    slim = fxprune.prune(model, 0.5, x[:2])
    pair = Pair.of(slim, model)
    work = repairs.KINDS[kind](pair, Settings(rectify=0, streams=False, ridge=1e-9))
    work.read(chunks_of(x, ["input"], pair.device))
    for site in work.sites:
        work(site)
    fixed = pair.result()
    with torch.no_grad():
        assert float((slim(x) - model(x)).norm() / model(x).norm()) > 0.1
        assert float((fixed(x) - model(x)).norm() / model(x).norm()) < 1e-4


def test_a_covariance_shrinks_by_as_much_as_its_rows_say() -> None:
    """Equation 23 of Chen et al., by hand: p = 2, n = 9, trace 4, squares 10; of equal variances all of it is noise."""
    assert repairs._shrinkage(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 9) == pytest.approx(16 / (9 * (10 - 16 / 2)))
    assert repairs._shrinkage(2 * torch.eye(3), 9) == 1.0
