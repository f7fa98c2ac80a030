"""``fxprune prune --steps N``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_repair_command import files as files  # the model and its images
from test_repair_command import run

import fxprune

torch.set_num_threads(1)


def test_steps_with_repairs(files: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net, images = files
    given = ["prune", net, "--macs", 0.5, "--input-size", "3x6x6", "--no-verify", "--data", images, "--repair", 100]
    folder, out = tmp_path / "run", tmp_path / "slim"
    given += ["--steps", 2, "--schedule", "linear", "--steps-folder", folder, "--out", out, "--json"]
    code, text, _ = run(capsys, *given)
    report = json.loads(text)
    assert code == 0 and report["step"]["number"] == 2 and report["repair"]["sites"]
    assert report["step"]["schedule"] == "linear" and (out / "plan.json").read_text() == (folder / "plan.json").read_text()
    assert fxprune.Plan.from_json((out / "plan.json").read_text()).options["iteration"]["steps"] == 2
    weights = fxprune.load(out).state_dict()
    code, _, _ = run(capsys, *given)  # goes on, which is the last step again
    again = fxprune.load(out).state_dict()
    assert code == 0 and all(torch.equal(v, again[n]) for n, v in weights.items())


@pytest.mark.slow
def test_steps_by_a_table_of_latencies(files: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Killed after a step, they go on with the table that they began with, which is not measured again."""
    cache, folder = tmp_path / "cache", tmp_path / "run"
    given = ["prune", files[0], "--round-to", "auto", "--macs", 0.5, "--input-size", "3x6x6", "--no-verify", "--steps", 2]
    given += ["--steps-folder", folder, "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FXPRUNE_CACHE", str(cache))
        code, _, _ = run(capsys, *given)
        plan = (folder / "plan.json").read_text()
        assert code == 0 and fxprune.Plan.from_json(plan).options["round_to"] >= 1 and [*cache.iterdir()]
        for file in cache.iterdir():
            file.unlink()
        code, _, _ = run(capsys, *given)
    assert code == 0 and (folder / "plan.json").read_text() == plan and not [*cache.iterdir()]


WRONG = {
    "no steps": (["--schedule", "linear"], "ask for them with --steps N"),
    "folder": (["--steps-folder", "x"], "ask for them with --steps N"),
    "plan only": (["--steps", "2", "--plan-only"], "leave out --plan"),
    "form": (["--steps", "2", "--form", "module"], "leave out --plan"),
    "numbers": (["--schedule", "0.5,x"], "is no list of numbers"),
    "schedule": (["--steps", "2", "--schedule", "cubik"], "did you mean 'cubic'"),
    "differ": (["--steps", "3", "--schedule", "0.5,1"], "2 steps, and steps says 3"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_contradicts_itself(kind: str, files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments, text = WRONG[kind]
    code, _, said = run(capsys, "prune", files[0], "--ratio", 0.5, "--input-size", "3x6x6", *arguments)
    assert code == 2 and text in " ".join(said.split())
