"""The benchmark of growth with depth runs, on short chains."""

from __future__ import annotations

import json
from pathlib import Path

import growth
import pytest
import torch
from test_benchmarks import run


@pytest.mark.slow
def test_growth(tmp_path: Path) -> None:
    done = run("growth.py", "--blocks", 2, 1, 4, "--rounds", 2, "--json", "--out", tmp_path)
    document = json.loads(done.stdout)
    assert [row["blocks"] for row in document["rows"]] == [1, 2, 4]
    for row in document["rows"]:
        assert len(row["rounds"]) == 2
        assert row["seconds"] == min(row["rounds"]) > 0
        assert row["per_block"] == row["seconds"] / row["blocks"]
    assert json.loads((tmp_path / "growth.json").read_text()) == document
    text = (tmp_path / "growth.md").read_text()
    assert text.count("\n| ") == 4 and "From 1 to 4 blocks" in text


@pytest.mark.parametrize(("power", "ratio"), [(1.0, 1.0), (2.0, 32.0)])
def test_powers_are_found(power: float, ratio: float) -> None:
    found = growth.growth({n: [9.0, 1e-6 * n**power] for n in (25, 50, 800)})
    assert found["exponent"] == pytest.approx(power)
    assert found["ratio_to_linear"] == pytest.approx(ratio)
    assert found["rows"][0]["ratio_to_linear"] == 1


def test_one_length_does_not_grow() -> None:
    found = growth.growth({25: [1.0]})
    assert found["exponent"] is None and found["ratio_to_linear"] is None


def test_a_chain_has_its_blocks() -> None:
    chain = growth.chain(3)
    assert sum(isinstance(part, growth.Block) for part in chain) == 3
    assert chain(torch.randn(2, 3, 8, 8)).shape == (2, 10)
