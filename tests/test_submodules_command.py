"""Submodules on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.submodules import X

import fxprune
from fxprune.cli.app import main


def test_the_command_line_prunes_submodules(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "net.py").write_text("from support.submodules import detector, images\n")
    command = [f"{tmp_path / 'net.py'}:detector", "--input-size", "3x16x16"]

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([*arguments])
        out, err = capsys.readouterr()
        assert not stopped.value.code, err
        return out

    named = ["--submodule", "body", "--submodule", "head.branch", "--out", str(tmp_path / "slim")]
    call("prune", *command, "--ratio", "0.5", *named)
    assert fxprune.load(tmp_path / "slim/body.py")(X)["coarse"].shape == (2, 8, 8, 8)
    assert fxprune.load(tmp_path / "slim/head/branch.py")(torch.randn(2, 8, 4, 4)).shape == (2, 4, 4, 4)
    report = json.loads(call("prune", *command, "--plan", str(tmp_path / "slim/plan.json"), "--json"))
    assert report["model"] == "Detector[body, head.branch]"
    assert "pruned" in call("verify", *command, "--submodule", "body")
    assert "head.branch.0.weight" in call("inspect", *command, "--submodule", "head*")
