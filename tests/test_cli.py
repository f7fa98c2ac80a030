"""The command line: what it prints, what it writes, how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fxprune
from fxprune.criteria import names

NETS = """
import torch
from torch import nn

print("a model file may print")

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 12, 3, padding=1)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv1(x)))
        x = torch.relu(x + self.conv2(x))
        return self.head(torch.relu(self.conv3(x)).mean((2, 3)))

def two_inputs():
    class Two(Small):
        def forward(self, x, y):
            return super().forward(x) + super().forward(y)
    return Two()

def only_output():
    return nn.Linear(3, 2)
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    return f"{file}:Small"


SIZE = ("--input-size", "3x8x8")


def test_prune_writes_a_model_that_loads(run, net, tmp_path):
    code, out, _ = run("prune", net, "--ratio", 0.5, *SIZE, "--out", tmp_path / "slim")
    assert code == 0
    assert sorted(f.name for f in (tmp_path / "slim").iterdir()) == [
        "plan.json",
        "slim.py",
        "slim.safetensors",
    ]
    slim = fxprune.load(tmp_path / "slim")
    assert not slim.training
    assert slim(torch.zeros(1, 3, 8, 8)).shape == (1, 4)
    assert "conv1.weight" in out and "MACs" in out and "ok: pruned against masked original" in out
    assert "part of the model's output" in out  # why the head stays whole
    assert out.count("wrote ") == 3


def test_prune_prints_one_json_document(run, net, tmp_path):
    code, out, err = run("prune", net, "--ratio", 0.5, *SIZE, "--json", "--out", tmp_path / "slim")
    document = json.loads(out)
    assert code == 0
    assert document["macs"][1] < document["macs"][0]
    assert document["checks"]["passed"] is True
    assert [Path(f).name for f in document["written"]] == ["slim.py", "slim.safetensors", "plan.json"]
    assert "a model file may print" in err


def test_no_verify(run, net):
    _, out, _ = run("prune", net, "--ratio", 0.5, *SIZE, "--no-verify", "--json")
    assert json.loads(out)["checks"] is None


def test_plan_first_and_apply_it_later(run, net, tmp_path):
    code, out, _ = run("prune", net, "--ratio", 0.5, *SIZE, "--plan-only", "--json", "--out", tmp_path / "p")
    assert code == 0
    planned = json.loads(out)
    assert planned["format"] == "fxprune-plan"
    assert [f.name for f in (tmp_path / "p").iterdir()] == ["plan.json"]
    plan = fxprune.Plan.from_json((tmp_path / "p" / "plan.json").read_text())
    code, out, _ = run("prune", net, "--plan", tmp_path / "p" / "plan.json", "--json")
    assert code == 0
    assert json.loads(out)["macs"] == list(plan.macs) == planned["macs"]


def test_options_reach_prune(run, net):
    options = ["--scope", "layer", "--criterion", "random", "--ignore", "conv1", "--ignore", "conv2"]
    options += ["--max-ratio", "0.6", "--round-to", "4", "--attention", "heads", "--seed", "7", "--normalization", "l2"]
    _, out, _ = run("prune", net, "--ratio", 0.5, *SIZE, *options, "--json")
    document = json.loads(out)
    assert document["options"] == {
        "attention": "heads",
        "criterion": "random",
        "ignore": ["conv1", "conv2"],
        "max_ratio": 0.6,
        "normalization": "l2",
        "ratio": 0.5,
        "round_to": 4,
        "scope": "layer",
        "seed": 7,
    }
    kept = {g["id"]: (g["status"], g["size"], g["kept"]) for g in document["groups"]}
    assert kept["conv3.weight"] == ("free", 12, 8)
    assert kept["conv1.weight"][0] == "protected"


def test_budgets_reach_prune(run, net):
    _, out, _ = run("prune", net, "--macs", 0.5, "--params", 0.8, *SIZE, "--json", "--no-verify")
    document = json.loads(out)
    assert (document["options"]["macs"], document["options"]["params"]) == (0.5, 0.8) and "ratio" not in document["options"]
    assert all(b["after"] <= b["asked"] * b["before"] for b in document["account"]["budgets"])
    _, out, _ = run("prune", net, "--macs", 0.5, *SIZE, "--no-verify")
    assert "budget 0.5" in out and "of the saliency, at most" in out
    code, _, err = run("prune", net, "--ratio", 0.5, "--macs", 0.5, *SIZE)
    assert code == 2 and "both is given" in err


def test_checkpoint(run, net, tmp_path):
    """The channels with the largest weights of the checkpoint stay."""
    from fxprune.inputs.models import load_model

    model = load_model(net)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
        model.conv3.weight[[1, 4, 5, 8, 9, 11]] = 1.0
    torch.save(model.state_dict(), tmp_path / "w.pt")
    options = ["--scope", "layer", "--checkpoint", tmp_path / "w.pt", "--plan-only", "--json"]
    _, out, _ = run("prune", net, "--ratio", 0.5, *SIZE, *options)
    assert json.loads(out)["kept"]["conv3.weight"]["0"] == [1, 4, 5, 8, 9, 11]


def test_two_inputs(run, net):
    code, _, _ = run("prune", net.replace("Small", "two_inputs"), "--ratio", 0.5, *SIZE, *SIZE)
    assert code == 0


def test_known_models_need_no_input_size(run):
    code, out, err = run("prune", "timm:test_resnet", "--ratio", 0.3)
    assert code == 0 and "ok" in out
    assert "fresh random" in err and "nothing was written" in err


def test_inspect(run, net):
    code, out, _ = run("inspect", net, *SIZE)
    assert code == 0
    assert "conv1.weight" in out and "conv3.weight" in out and "2 of 3 groups may be pruned" in out


def test_inspect_json(run, net):
    _, out, _ = run("inspect", net, *SIZE, "--json")
    groups = {g["id"]: g for g in json.loads(out)["groups"]}
    coupled = {(m["name"], m["axis"], m["role"]) for m in groups["conv1.weight"]["members"]}
    assert {("conv1.weight", 0, "producer"), ("conv2.weight", 0, "producer")} <= coupled
    assert ("conv3.weight", 1, "consumer") in coupled
    assert groups["head.weight"]["status"] == "frozen"


def test_inspect_a_layer(run, net):
    code, out, _ = run("inspect", net, "conv2", *SIZE)
    assert code == 0
    assert out.startswith("a model file may print\nconv2: free\n") and "bn.weight" in out


def test_inspect_a_layer_json(run, net):
    _, out, _ = run("inspect", net, "head", *SIZE, "--json")
    assert json.loads(out)["status"] == "frozen"


def test_verify(run, net):
    code, out, _ = run("verify", net, "--ratio", 0.5, *SIZE)
    assert code == 0
    assert "ok: permutation invariance" in out and "ok: pruned against masked original" in out
    assert "latency (ms)" in out


def test_verify_json(run, net):
    _, out, _ = run("verify", net, "--ratio", 0.5, *SIZE, "--json")
    document = json.loads(out)
    assert document["passed"] is True and document["masked_error"] < 1e-4


def test_a_failed_check_is_exit_code_1(run, net, monkeypatch):
    from fxprune import api
    from fxprune.planning.report import Checks

    wrong = Checks(permutation_error=float("nan"), masked_error=0.5, tolerance=1e-4)
    monkeypatch.setattr(api, "verify", lambda *args, **options: wrong)
    code, out, _ = run("verify", net, *SIZE)
    assert code == 1 and out.count("FAILED") == 2
    code, out, _ = run("verify", net, *SIZE, "--json")
    assert code == 1 and json.loads(out)["permutation_error"] is None  # JSON has no NaN


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune", "{net}", "--ratio", "1.5", *SIZE], "ratio"),
        (["prune", "{net}", "--ratio", "nan", *SIZE], "ratio"),
        (["prune", "{net}", "--ratio", "0.5"], "example_inputs"),
        (["prune", "{net}", *SIZE], "--ratio"),
        (["prune", "{net}", "--ratio", "0.5", "--plan", "p.json"], "--plan"),
        (["prune", "{net}", "--plan", "nowhere.json"], "cannot read the plan"),
        (["prune", "{net}", "--plan", "{file}"], "not a plan"),
        (["prune", "{net}", "--ratio", "0.5", "--input-size", "3x8xlarge"], "--input-size '3x8xlarge'"),
        (["prune", "{net}", "--ratio", "0.5", "--input-size", "3x0x8"], "--input-size"),
        (["prune", "{net}", "--ratio", "0.5", *SIZE, "--criterion", "l3"], "did you mean 'l2'"),
        (["prune", "{net}", "--ratio", "0.5", *SIZE, "--ignore", "cnv1"], "did you mean 'conv1'"),
        (["prune", "{net}", "--ratio", "0.5", *SIZE, "--round-to", "0"], "round-to"),
        (["prune", "{net}", "--ratio", "0.5", *SIZE, "--checkpoint", "nowhere.pt"], "no checkpoint file"),
        (["prune", "{net}", "--ratio", "0.5", *SIZE, "--out", "{file}"], "nets.py"),
        (["prune", "timm:resnet5", "--ratio", "0.5"], "did you mean 'resnet50'"),
        (["prune", "{folder}/nets.py:only_output", "--ratio", "0.5", "--input-size", "3"], "no channel"),
        (["inspect", "{net}", "conv9", *SIZE], "conv9"),
        (["demo", "--epochs", "0"], "epochs"),
    ],
)
def test_an_error_is_one_sentence(run, net, tmp_path, arguments, said):
    file = net.rpartition(":")[0]
    code, out, err = run(*(a.format(net=net, file=file, folder=tmp_path) for a in arguments))
    assert code == (1 if said == "no channel" else 2)  # the request is wrong, or right and cannot be met
    assert out.replace("a model file may print\n", "") == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert said in err


@pytest.mark.parametrize("option", [["--scope", "everywhere"], ["--attention", "all"], ["--round-to", "half"]])
def test_an_option_of_the_wrong_kind(run, net, option):
    code, _, err = run("prune", net, "--ratio", "0.5", *option)
    assert code == 2 and option[0].removeprefix("--") in err and "Traceback" not in err


def test_an_unknown_criterion_lists_all(run, net):
    _, _, err = run("prune", net, "--ratio", 0.5, *SIZE, "--criterion", "?")
    assert all(name in err for name in names())


def test_help_is_quick():
    """The help and a mistyped command need neither torch nor timm."""
    code = "import sys, fxprune.cli.app; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_criteria_that_observe_take_data_from_a_file(run, net: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", inputs=rng.normal(size=(8, 3, 16, 16)).astype(np.float32), labels=rng.integers(0, 4, 8))
    command = ("prune", net, "--ratio", 0.5, "--criterion", "taylor", "--input-size", "3x16x16")
    code, _, said = run(*command)
    assert code == 2 and "data" in said
    code, _, _ = run(*command, "--data", tmp_path / "data.npz", "--out", tmp_path)
    assert code == 0
    plan = fxprune.Plan.from_json((tmp_path / "plan.json").read_text())
    assert plan.options["criterion"] == "taylor" and plan.macs[1] < plan.macs[0]


def test_data_by_name(run, net: str, tmp_path: Path) -> None:
    """Bytes are images, which the options prepare; what is drawn follows the seed."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", images=rng.integers(0, 256, (200, 8, 8, 3), np.uint8), labels=rng.integers(0, 4, 200))
    command = ("prune", net, "--ratio", 0.5, *SIZE, "--criterion", "taylor", "--data", tmp_path / "images.npz", "--plan-only")
    scores = []
    for options in ((), ("--mean", "0.4,0.5,0.6", "--std", "0.2"), ("--batches", 2), ("--batches", 2, "--seed", 1)):
        code, out, err = run(*command, *options, "--json")
        assert code == 0 and ("not normalised" in err) == ("--mean" not in options)
        scores.append(str([group["scores"] for group in json.loads(out)["groups"]]))
    assert len({*scores}) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mean", "0.5"], "give --data, too"),
        (["--data", "digits", "--std", "a,b,c"], "--std 'a,b,c' is not a number for each channel"),
        (["--data", "nowhere.npz"], "no file or folder 'nowhere.npz'"),
    ],
)
def test_data_that_cannot_be_read(run, net: str, options: list[str], said: str) -> None:
    code, _, err = run("prune", net, "--ratio", 0.5, *SIZE, "--criterion", "taylor", *options)
    assert code == 2 and said in err and "Traceback" not in err
