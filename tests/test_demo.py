"""The demo keeps its promise: half of the MACs or less, accuracy within one point."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import fxprune
from fxprune.cli.demo import DigitsNet, accuracy, run
from fxprune.errors import InputError, PruneError
from fxprune.inputs.digits import Digits, digits


@pytest.mark.slow
def test_demo_keeps_its_promise(tmp_path):
    """As a user runs it; one test, for training takes most of the time."""
    result = run(tmp_path, json=True)
    models = result["models"]
    assert models["dense"]["accuracy"] >= 0.975
    assert models["repaired"]["accuracy"] >= models["dense"]["accuracy"] - 0.03
    assert models["fine-tuned"]["accuracy"] >= models["dense"]["accuracy"] - 0.01
    assert models["fine-tuned"]["macs"] == models["pruned"]["macs"] <= models["dense"]["macs"] / 2
    assert models["fine-tuned"]["parameters"] < models["dense"]["parameters"] / 2

    written = sorted(file.name for file in tmp_path.iterdir())
    assert written == ["demo.json", "plan.json", "slim.py", "slim.safetensors"]
    assert json.loads((tmp_path / "demo.json").read_text())["models"] == models
    assert fxprune.Plan.from_json((tmp_path / "plan.json").read_text()).model == "DigitsNet"
    assert accuracy(fxprune.load(tmp_path), digits()) == models["fine-tuned"]["accuracy"]


@pytest.mark.slow
def test_same_seed_same_bytes(tmp_path):
    state = torch.get_rng_state()
    for name in ("a", "b"):
        run(tmp_path / name, json=True, epochs=1, seed=3)
    for file in ("slim.py", "slim.safetensors", "plan.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert torch.equal(state, torch.get_rng_state())  # the caller's random numbers are not consumed


@pytest.fixture
def few(monkeypatch):
    """A demo with few images."""
    whole = digits()
    found = Digits(whole.train_x[:96], whole.train_y[:96], whole.test_x[:64], whole.test_y[:64])
    monkeypatch.setattr("fxprune.cli.demo.digits", lambda: found)
    return found


@pytest.mark.slow
def test_report(tmp_path, few):
    pytest.importorskip("jinja2")
    result = run(tmp_path, json=True, epochs=1, report=tmp_path / "demo.html")
    text = (tmp_path / "demo.html").read_text()
    document = json.loads(text.split('id="data"')[1].split(">", 1)[1].split("</script>")[0])
    tile = next(tile for tile in document["tiles"] if tile["name"] == "Accuracy")
    models = result["models"]
    assert (tile["before"], tile["after"]) == pytest.approx((models["dense"]["accuracy"], models["fine-tuned"]["accuracy"]))
    assert result["written"][-1].endswith("demo.html") and "trained on labelled images for 1 epoch" in " ".join(
        document["notes"]
    )


def test_table(tmp_path, capsys, few):
    run(tmp_path, epochs=1)
    printed = capsys.readouterr().out
    for word in ("accuracy", "MACs", "parameters", "latency", "dense", "pruned", "repaired", "fine-tuned", "slim.py"):
        assert word in printed


def test_held_out_images_are_fixed_and_apart():
    one, two = digits(), digits()
    assert torch.equal(one.test_x, two.test_x)
    assert len(one.train_x) == 1347 and len(one.test_x) == 450
    assert one.train_y.bincount().min() > 100 and one.test_y.bincount().min() > 30


def test_network_has_residual_groups():
    groups = fxprune.analyze(DigitsNet(), torch.zeros(1, 1, 8, 8)).groups
    producers = {g.id: [m.name for m in g.members if m.role == "producer"] for g in groups}
    assert producers["stem.0.weight"] == ["stem.0.weight", "stage1.0.conv2.weight", "stage1.1.conv2.weight"]


def test_missing_scikit_learn_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(PruneError, match=r'pip install "fxprune\[demo\]"'):
        run(tmp_path, json=True)
    assert not list(tmp_path.iterdir())


def test_epochs_must_be_positive(tmp_path):
    with pytest.raises(InputError, match="epochs"):
        run(tmp_path, epochs=0)
