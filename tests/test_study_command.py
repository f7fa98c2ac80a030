"""`fxprune study`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support.study import X, Y

from fxprune.cli.app import main
from fxprune.cli.many_values import repeated
from fxprune.studies import Study

FILE = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
"""


@pytest.fixture
def run(tmp_path, capsys):
    """Run `fxprune study` on a small model; gives the exit code, stdout and stderr."""
    (tmp_path / "nets.py").write_text(FILE)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["study", f"{tmp_path / 'nets.py'}:small", "--input-size", "3x8x8", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


def test_command_takes_several_values_and_prints_json(run):
    code, out, _ = run("--criteria", "l1", "l2", "random", "--ratios", "0.25", "0.5", "--unit", "layer", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["criteria"] == ["l1", "l2", "random"]
    assert document["options"]["ratios"] == [0.25, 0.5]
    assert document["units"] == ["0.weight", "2.weight", "5.weight"]
    assert document["notes"] == document["written"] == []


def test_command_takes_budgets(run):
    code, out, _ = run("--criteria", "l1", "l2", "--macs", "0.7", "0.5", "--params", "0.6", "--no-plots", "--json")
    document = json.loads(out)
    assert code == 0 and (document["options"]["macs"], document["options"]["params"]) == ([0.7, 0.5], [0.6])
    overlaps = document["pairs"][0]["overlaps"]
    assert {(o["budget"], o["ratio"]) for o in overlaps if o["budget"]} == {("macs", 0.7), ("macs", 0.5), ("params", 0.6)}


def test_command_says_that_inputs_are_random(run):
    code, out, _ = run("--criteria", "l2,apoz,taylor")
    assert code == 0
    assert "random inputs with random labels" in " ".join(out.split())


def test_command_writes_files_and_reads_data(run, tmp_path):
    pytest.importorskip("matplotlib")
    np.savez(tmp_path / "data.npz", inputs=X.numpy(), labels=Y.numpy())
    out = tmp_path / "out"
    code, text, _ = run("--criteria", "l1", "taylor", "--data", tmp_path / "data.npz", "--out", out)
    assert code == 0
    assert "random inputs" not in text
    pictures = {f"{name}.{kind}" for name in ("aura", "layers", "scores", "similarity") for kind in ("png", "svg")}
    assert {p.name for p in out.iterdir()} == pictures | {"study.json", "study.txt", "aura.json"}
    assert Study.from_json((out / "study.json").read_text()).criteria == ("l1", "taylor")


def test_command_wants_matplotlib_before_it_works(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run("--out", tmp_path / "out")
    assert code == 1
    assert "fxprune[plot]" in err
    assert not (tmp_path / "out").exists()
    assert run("--out", tmp_path / "out", "--no-plots")[0] == 0
    assert (tmp_path / "out" / "study.txt").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": X.numpy()}, "it has pixels"),
        ({"x": X.numpy(), "y": Y.numpy()[:2]}, "labels must be 4 whole numbers"),
        ({"x": np.array([{}], dtype=object)}, "not a readable .npz"),
        ({"x": X.numpy()[:0]}, "holds no inputs"),
    ],
    ids=["other names", "too few labels", "pickled objects", "empty"],
)
def test_command_refuses_other_data(run, tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    code, _, err = run("--criteria", "apoz", "--data", tmp_path / "data.npz")
    assert code == 2
    assert message in err


def test_command_refuses_what_is_no_file_of_data(run, tmp_path: Path):
    (tmp_path / "data.npz").write_text("no zip")
    assert run("--data", tmp_path / "data.npz")[0] == 2
    assert run("--data", tmp_path / "none.npz")[0] == 2


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("m:x --criteria l1 l2,fpgm --json", "m:x --criteria l1 --criteria l2 --criteria fpgm --json"),
        ("--criteria l1 l2 m:x", "--criteria l1 --criteria l2 m:x"),
        ("m:x --criteria --json", "m:x --criteria --json"),
        ("m:x --criteria l1 --criteria l2", "m:x --criteria l1 --criteria l2"),
        ("m:x --out folder", "m:x --out folder"),
    ],
)
def test_several_values_after_one_name(written, meant):
    assert " ".join(repeated(written.split(), {"--criteria"})) == meant
