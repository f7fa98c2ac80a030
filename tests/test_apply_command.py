"""``fxprune apply`` and ``fxprune repair``: from a stored plan, and from what ``fxprune prune`` wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fxprune
from fxprune.inputs.models import load_model

NET = """
import torch
from torch import nn

def net():
    first = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*first, nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 4))
"""

OWN = """
import torch
from torch import nn

class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 4)

    def forward(self, x):
        return self.two(Twice.apply(self.one(x))).flatten(1)

def net():
    torch.manual_seed(0)
    return Net()
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with a checkpoint, its slim model as `fxprune prune` leaves it, and images."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NET)
    torch.manual_seed(1)
    dense = load_model("nets.py:net").eval()
    save_file(dense.state_dict(), "dense.safetensors")
    slim = fxprune.prune(dense, 0.5, torch.zeros(2, 3, 6, 6), scope="layer", verify=False)
    fxprune.save(slim, "slim")
    Path("slim/plan.json").write_text(slim.meta["fxprune"].plan.to_json())
    np.savez("images.npz", inputs=np.random.default_rng(0).normal(size=(400, 3, 6, 6)).astype("f"))
    return tmp_path


@pytest.mark.parametrize("plan", ["slim", "slim/plan.json"])
def test_a_plan_makes_the_same_model_again(run: Run, folder: Path, plan: str) -> None:
    code, out, err = run("apply", "nets.py:net", plan, "--checkpoint", "dense.safetensors", "--out", "again")
    assert code == 0 and "ok: pruned against masked original" in out and err == ""
    for name in ("slim.py", "slim.safetensors", "plan.json"):
        assert Path("again", name).read_bytes() == Path("slim", name).read_bytes()


def test_what_was_there_is_named_before_it_goes(run: Run, folder: Path) -> None:
    words = ("apply", "nets.py:net", "slim", "--no-verify", "--checkpoint", "dense.safetensors", "--out", "again")
    assert "replaces" not in run(*words)[2]
    replaced = ", ".join(str(Path("again", name)) for name in ("slim.py", "slim.safetensors", "plan.json"))
    assert run(*words)[2] == f"note: replaces {replaced}\n"


def test_a_slim_model_is_repaired_where_it_is(run: Run, folder: Path) -> None:
    """What its own weights say, not those that the plan would give."""
    state = {name: value.clone() for name, value in fxprune.load("slim").state_dict().items()}
    state["0.weight"] *= 0.9  # as a training would have changed it; all its inputs are there, so that a repair leaves it
    save_file(state, "slim/slim.safetensors")
    words = ("repair", "nets.py:net", "--checkpoint", "dense.safetensors", "--slim", "slim", "--data", "images.npz")
    code, out, err = run(*words, "--images", 300, "--out", "repaired", "--json")
    assert code == 0, err
    document = json.loads(out)["repair"]
    assert sum(document["images"]) == 300 and document["after"] < document["before"]
    dense, slim, fixed = load_model("nets.py:net"), fxprune.load("slim"), fxprune.load("repaired")
    dense.load_state_dict(fxprune.inputs.checkpoints.read_state_dict("dense.safetensors"))
    x = torch.from_numpy(np.load("images.npz")["inputs"])
    with torch.no_grad():
        errors = [float((module.eval()(x) - dense.eval()(x)).norm()) for module in (fixed, slim)]
    assert errors[0] < 0.9 * errors[1] and torch.equal(fixed.state_dict()["0.weight"], state["0.weight"])
    assert Path("repaired/plan.json").read_bytes() == Path("slim/plan.json").read_bytes()
    code, out, err = run(*words, "--images", 300, "--out", "plain")  # the tables of the same
    assert code == 0 and "Repair, on images that were held back" in out and out.count("wrote ") == 3


def test_a_model_that_cannot_be_written_as_source_keeps_plan_and_weights(run: Run, folder: Path) -> None:
    """Its function of autograd is the user's own: source that needs torch alone has none. Nothing that took long is lost."""
    Path("own.py").write_text(OWN)
    words = ("prune", "own.py:net", "--ratio", 0.5, "--input-size", "3x6x6", "--data", "images.npz", "--repair", 100)
    code, out, err = run(*words, "--out", "slim2")
    assert code == 1 and out == "" and "plan.json and slim.safetensors are kept in 'slim2'" in err and err.count("\n") <= 3
    plan = fxprune.Plan.from_json(Path("slim2/plan.json").read_text())
    made = fxprune.apply(load_model("own.py:net").eval(), plan)
    made.load_state_dict(fxprune.inputs.checkpoints.read_state_dict("slim2/slim.safetensors"))
    code, out, err = run("validate", "own.py:net", "--slim", "slim2", "--data", "images.npz", "--no-latency", "--json")
    x = torch.from_numpy(np.load("images.npz")["inputs"])
    dense = load_model("own.py:net").eval()
    with torch.no_grad():
        distance = float((made(x) - dense(x)).norm() / dense(x).norm())
    assert code == 0, err
    assert json.loads(out)["slim"][0]["against"]["distance"] == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("apply", "nets.py:net", "nowhere"), 2, "cannot read the plan 'nowhere'"),
        (("apply", "nets.py:net", "."), 2, "cannot read the plan 'plan.json'"),
        (("apply", "nets.py:net", "images.npz"), 2, "cannot read the plan 'images.npz'"),
        (("apply", "timm:test_resnet", "slim"), 1, "made for"),
        (("repair", "nets.py:net", "--slim", "slim", "--data", "images.npz", "--out", "slim/."), 2, "so that it stays"),
        (("repair", "nets.py:net", "--slim", "nowhere", "--data", "images.npz", "--out", "o"), 2, "cannot read the plan"),
        (("repair", "timm:test_resnet", "--slim", "slim", "--data", "images.npz", "--out", "o"), 1, "made for"),
        (("repair", "nets.py:net", "--slim", "slim", "--data", "nowhere.npz", "--out", "o"), 2, "nowhere.npz"),
        (("repair", "nets.py:net", "--slim", "slim", "--data", "images.npz", "--images", 1, "--out", "o"), 2, "--images"),
        (("repair", "nets.py:net", "--slim", "slim", "--data", "images.npz", "--ridge", 0, "--out", "o"), 2, "ridge"),
    ],
)
def test_what_cannot_be_done(run: Run, folder: Path, words: tuple[object, ...], code: int, said: str) -> None:
    found, out, err = run(*words)
    assert (found, out) == (code, "") and err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert not Path("o").exists()
