"""The benchmark of deployment: each way of running a model is compared, limits hold, and the table says what differs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import deployment
import deployment_checks as checks
import deployment_table as tables
import pytest
import torch
from torch import nn

MODEL, X = nn.Sequential(nn.Linear(3, 2)).eval(), torch.ones(2, 3)


def test_a_way_is_compared_or_its_error_is_said() -> None:
    assert checks.tried(checks.CHECKS["deepcopy"], MODEL, X) == {"error": 0}
    assert checks.tried(lambda m, x: m(x) * 2, MODEL, X)["error"] > 0.1
    assert "shapes [(1, 2)]" in checks.tried(lambda m, x: m(x)[:1], MODEL, X)["why"]
    assert checks.tried(lambda m, x: m(x.T), MODEL, X)["why"].startswith("RuntimeError: ")


def test_what_a_group_sends_is_kept_when_its_process_ends() -> None:
    def ends(send: Any) -> None:
        send("first", 1)
        os.kill(os.getpid(), signal.SIGXCPU)

    def raises(send: Any) -> None:
        raise ValueError("no")

    assert [*deployment.in_a_process(ends, (), 5)] == [("first", 1), ("failed", "more than 5 s of processor time")]
    assert [*deployment.in_a_process(raises, (), 5)] == [("failed", "ValueError: no")]
    assert [*deployment.in_a_process(lambda send: send("a", 2), (), 5)] == [("a", 2)]


def row(**slim: checks.Result) -> dict[str, Any]:
    dense = {name: {"error": 1e-6} for name in tables.CHECKS}
    return {"model": "timm:a", "ratio": 0.3, "forms": {"dense": dense, "slim": {**dense, **slim}}}


def test_the_table_says_what_differs_and_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = row(pickle={"why": "TypeError: no"}, bf16={"error": 0.2}, deepcopy={"error": 0.2})
    assert tables.differences([made]) == [("timm:a", "slim", "deepcopy"), ("timm:a", "slim", "pickle")]
    notes = tmp_path / "notes.json"
    notes.write_text(json.dumps({"pickle": "a limit of Python", "timm:a slim pickle": "nearer"}))
    monkeypatch.setattr(tables, "NOTES", notes)
    text = tables.table([made], {"torch": "2"})
    assert "| pickle | 1 of 1 | 0 of 1 | 0 of 0 |" in text and "| bf16 | 1 of 1 | 1 of 1 | 0 of 0 |" in text
    assert "- timm:a, slim, deepcopy: not looked into" in text and "- timm:a, slim, pickle: nearer" in text
    assert "- timm:a, slim, pickle: TypeError: no" in text


def test_every_difference_that_is_stored_has_a_note() -> None:
    """No slim model does what its original does not, or the reverse, without a line in the table."""
    rows = deployment.read(deployment.HERE / "results" / "deployment.jsonl").values()
    notes = json.loads(tables.NOTES.read_text())
    assert rows and [d for d in tables.differences(rows) if tables.note_of(*d, notes) is None] == []


@pytest.mark.slow
def test_the_command_measures_what_has_no_result_yet(tmp_path: Path) -> None:
    for name in ("onnxruntime", "onnxscript", "openvino", "torchao"):
        pytest.importorskip(name, reason="needs the extras `onnx` and `openvino`, and torchao")
    options = ["--list", "timm:test_resnet", "--groups", "eager", "--out", str(tmp_path)]
    deployment.main([*options, "--forms", "dense", "slim"])
    deployment.main([*options, "--forms", "dense", "slim"])
    (line,) = (tmp_path / "deployment.jsonl").read_text().splitlines()
    forms = json.loads(line)["forms"]
    assert {*forms} == {"dense", "slim"} and not [r for found in forms.values() for r in found.values() if "why" in r]
    assert "| timm:test_resnet | slim | 0e+00 | 0e+00 |" in (tmp_path / "deployment.md").read_text()
