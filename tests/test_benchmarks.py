"""The benchmarks run, on the smallest models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NO_PEER = pytest.mark.skipif(find_spec("torch_pruning") is None, reason="torch-pruning is not installed")


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    return done


def coverage_rows(out: Path, *arguments: object) -> list[dict]:
    run("coverage.py", "--list", "timm:test_resnet", "--seconds", 120, "--out", out, *arguments)
    return [json.loads(line) for line in (out / "coverage.jsonl").read_text().splitlines()]


def timed(out: Path, *arguments: object) -> dict:
    done = run("speed.py", "--models", "timm:test_resnet", "--repeats", 1, "--json", "--out", out, *arguments)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_speed_without_the_peer(tmp_path: Path) -> None:
    document = timed(tmp_path, "--no-peer")
    (row,) = document["rows"]
    assert row["fxprune"] > 0
    assert row["macs"]["fxprune"][1] < row["macs"]["fxprune"][0]
    assert row["errors"] == {"torch_pruning": "left out"}
    assert json.loads((tmp_path / "speed.json").read_text()) == document
    assert "| timm:test_resnet |" in (tmp_path / "speed.md").read_text()


@pytest.mark.slow
@NO_PEER
def test_speed_beside_the_peer(tmp_path: Path) -> None:
    (row,) = timed(tmp_path)["rows"]
    assert row["errors"] == {}
    assert row["ratio"] == row["fxprune"] / row["torch_pruning"]


@pytest.mark.slow
def test_coverage_checks_a_model_once(tmp_path: Path) -> None:
    (row,) = coverage_rows(tmp_path)
    assert "errors" not in row
    assert all(row[name] for name in ("traced", "shape", "batch", "round_trip", "backward"))
    assert row["verified"] and row["macs_agree"]
    assert 0.9 < row["free_share"] <= 1
    assert row["macs"][1] < 0.6 * row["macs"][0]
    assert "1 of 1 pass" in (tmp_path / "coverage.md").read_text()
    assert coverage_rows(tmp_path) == [row]  # a result that is there is not made again


@pytest.mark.slow
def test_coverage_says_where_a_model_was_stopped(tmp_path: Path) -> None:
    (row,) = coverage_rows(tmp_path, "--memory", 0.2)
    assert list(row["errors"].values()) == ["memory: more than 0.2 GiB"]
    table = (tmp_path / "coverage.md").read_text()
    assert "0 of 1 pass" in table
    assert "memory: more than 0.2 GiB" in table


@pytest.mark.slow
@NO_PEER
def test_coverage_of_the_peer(tmp_path: Path) -> None:
    rows = coverage_rows(tmp_path, "--peer")
    assert [row["tool"] for row in rows] == ["fxprune", "torch-pruning"]
    assert rows[1]["shape"]
    assert rows[1]["macs"][0] == rows[0]["macs"][0]


@pytest.mark.slow
def test_scale(tmp_path: Path) -> None:
    done = run("scale.py", "--models", "timm:test_vit", "--json", "--out", tmp_path)
    (row,) = json.loads(done.stdout)["rows"]
    assert row["parameters_after"] < row["parameters"] and row["analyze_seconds"] > 0
    assert "| timm:test_vit |" in (tmp_path / "scale.md").read_text()
