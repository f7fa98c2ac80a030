"""``fxprune prune --repair N --data ...``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.cli.app import main

torch.set_num_threads(1)

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*first, nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 4))
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A model, and 400 images."""
    Path(tmp_path, "nets.py").write_text(NET)
    np.savez(tmp_path / "images.npz", inputs=np.random.default_rng(0).normal(size=(400, 3, 6, 6)).astype("f"))
    return f"{tmp_path}/nets.py:net", f"{tmp_path}/images.npz"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def test_the_repaired_model_is_written(files: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net, images = files
    given = ("prune", net, "--ratio", 0.5, "--input-size", "3x6x6", "--scope", "layer", "--criterion", "l2")
    code, out, _ = run(
        capsys,
        *given,
        "--no-verify",
        "--data",
        images,
        "--repair",
        300,
        "--out",
        tmp_path / "slim",
        "--repair-checkpoint",
        tmp_path / "at",
    )
    assert code == 0 and "repaired 2 layers and" in out and "held back" in out
    assert (tmp_path / "at").exists()
    fixed = fxprune.load(tmp_path / "slim")
    namespace: dict[str, object] = {}
    exec(NET, namespace)
    model: nn.Module = namespace["net"]().eval()  # type: ignore[operator]
    x = torch.from_numpy(np.load(images)["inputs"])
    plain = fxprune.prune(model, 0.5, x[:2], scope="layer", verify=False)
    with torch.no_grad():
        errors = [float((module(x) - model(x)).norm()) for module in (fixed, plain)]
    assert errors[0] < 0.9 * errors[1]
    assert (tmp_path / "slim" / "plan.json").read_text() == plain.meta["fxprune"].plan.to_json()
    code, out, _ = run(
        capsys,
        "prune",
        net,
        "--plan",
        tmp_path / "slim" / "plan.json",
        "--data",
        images,
        "--repair",
        300,
        "--json",
        "--no-verify",
    )
    document = json.loads(out)["repair"]
    assert code == 0 and sum(document["images"]) == 300 and document["after"] < document["before"]
    assert [site["name"] for site in document["sites"]] == ["1", "3", "5"]


def test_images_choose_among_plans_within_a_budget(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    net, images = files
    given = ("prune", net, "--macs", 0.4, "--input-size", "3x6x6", "--criterion", "l2", "--no-verify", "--json")
    code, out, _ = run(capsys, *given, "--data", images, "--repair", 120)
    document = json.loads(out)
    trials = document["trials"]
    assert code == 0 and len(trials["trials"]) > 1 and sum(trials["images"]) == 120 and sum(document["repair"]["images"]) == 120
    best = min(trials["trials"], key=lambda trial: trial["error"])
    assert trials["chosen"] == best["name"] and document["macs"][1] == best["macs"]
    code, out, _ = run(capsys, *given, "--data", images, "--repair", 120, "--repair-checkpoint", tmp_path / "at")
    assert code == 0 and json.loads(out)["trials"] is None and sum(json.loads(out)["repair"]["images"]) == 120


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ratio", 0.5, "--repair-checkpoint", "file"), "ask for one with --repair N"),
        (("--ratio", 0.5, "--repair", 20), "say which with --data"),
        (("--ratio", 0.5, "--repair", 20, "--data", "digits", "--plan-only"), "leave out --submodule and --plan-only"),
        (("--ratio", 0.5, "--repair", 20, "--data", "digits", "--submodule", "0"), "leave out --submodule and --plan-only"),
        (("--ratio", 0.5, "--repair", 1, "--data", "digits"), "--repair"),
    ],
)
def test_what_cannot_be_asked_for(
    files: tuple[str, str], options: tuple[object, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "prune", files[0], *options)
    assert code == 2 and words in " ".join(err.split())
