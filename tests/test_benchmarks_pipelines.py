"""The pipelines' benchmark runs, on small networks and made-up images, goes on where it stopped, and judges its rows."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pipeline_table
import pipeline_work
import pipelines
import pytest
import torch
from models import PRESETS, CifarResNet, Preset
from safetensors.torch import save_file
from sounds import KINDS, clips, mel_filters
from test_benchmarks_criteria import cifar  # noqa: F401  (a fixture)
from torch import nn
from torch.utils.data import TensorDataset

import fxprune

pytestmark = pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")

FEW = ["--images", 10, "--train", 20, "--test", 10, "--epochs", 1, "--seeds", 1, "--drawn", 1, "--precision", "fp32"]


class Scenes(nn.Sequential):
    """A small stand-in for the networks of scenes."""

    def __init__(self) -> None:
        super().__init__()
        for number, width in ((1, 1), (2, 6)):
            self.add_module(f"conv{number}", nn.Conv2d(width, 6, 3))
            self.add_module(f"relu{number}", nn.ReLU())
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)


def measure(out: Path, *arguments: object) -> list[dict]:
    pipelines.main([str(a) for a in [*FEW, "--out", out, "--work", out / "work", *arguments]])
    return [json.loads(line) for line in (out / "pipelines.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_images(cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    preset = Preset(CifarResNet, (3, 32, 32), {"layer*.conv1": 0.5})
    monkeypatch.setitem(PRESETS, "resnet8-half", preset)
    save_file(CifarResNet(8).state_dict(), tmp_path / "resnet8.safetensors")
    given = ["--data", cifar, "--weights", tmp_path / "resnet8.safetensors", "--presets", "resnet8-half"]
    given += ["--parts", "sfm", "aura", "--aura-criteria", "aura_mi", "random", "--train-after", "full"]
    found = measure(tmp_path, *given)
    sfm = [(r["criterion"], r["repair"], r["training"], r["seed"]) for r in found if r["pipeline"] == "sfm"]
    assert sfm == [
        ("", "", "", 0),
        ("sfm", "none", "none", 0),
        ("sfm", "full", "none", 0),
        *(("sfm", "full", training, 0) for training in ("plain", "do_conv")),
    ]
    assert all(0 <= r["accuracy"] <= 1 for r in found)
    assert len({round(r["macs"], 6) for r in found if r["criterion"]}) == 1
    assert [r["criterion"] for r in found if r["pipeline"] == "aura"] == ["", *["aura_mi"] * 2, *["random"] * 2]
    monkeypatch.setattr(pipeline_work.Subject, "measured", None)  # nothing is measured twice
    assert measure(tmp_path, *given) == found
    text = (tmp_path / "pipelines.md").read_text()
    assert "| sfm | late | full |" in text and "DO-Conv less plain, seed by seed, repair full:" in text


@pytest.mark.slow
def test_scores_of_two_stages(cifar: Path, tmp_path: Path) -> None:  # noqa: F811
    found = measure(tmp_path, "--data", cifar, "--parts", "early")
    assert [(r["when"], r["training"]) for r in found[2:]] == [
        (w, t) for w in ("early", "late", "late") for t in ("none", "plain")
    ]
    assert -1 <= found[1]["spearman"] <= 1
    assert "Spearman's correlation of the early and the late scores" in (tmp_path / "pipelines.md").read_text()


def test_sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"frames": 12, "bands": 8, "hop": 160}
    small = dict.fromkeys(("VGGish", "DCASE21_Net"), (Scenes, shape, {"lr": 1e-3}))
    monkeypatch.setattr(pipeline_work, "_AUDIO", small)
    for name in ("vggish-50", "dcase21-50"):
        monkeypatch.setitem(PRESETS, name, Preset(Scenes, (1, 12, 8), {"conv*": 0.5}))
    given: list[object] = ["--parts", "audio", "--clips", 20, "--heldout", 10, "--audio-criteria", "operator_norm", "random"]
    given += ["--dense-epochs", 1, "--train-after", "none"]
    found = measure(tmp_path, *given, "--presets", "vggish-50", "dcase21-50", "--trainings", "none")
    assert len(found) == 2 * (1 + 2 * 2) and {r["network"] for r in found} == {"VGGish", "DCASE21_Net"}
    assert {(r["clips"], r["test"], r["dense_epochs"]) for r in found} == {(20, 10, 1)}
    assert len([*(tmp_path / "work").iterdir()]) == 2
    assert "20 sounds to train (1 epochs), 10 others to test" in (tmp_path / "pipelines.md").read_text()
    more = measure(tmp_path, *given, "--presets", "dcase21-50")  # what is there stays, a short training is added
    assert more[: len(found)] == found and [(r["criterion"], r["repair"], r["training"]) for r in more[len(found) :]] == [
        (name, "none", "plain") for name in ("operator_norm", "random")
    ]
    assert "a tenth of the learning rate, AdamW" in (tmp_path / "pipelines.md").read_text()


def test_a_plan_is_scored_once_whatever_repairs_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.randn(4, 1, 12, 8), torch.arange(4) % 2
    subject = pipeline_work.Subject(
        "s", Scenes().eval(), [(images, labels)], TensorDataset(images, labels), [(images, labels)], {}
    )
    asked, plan = [], fxprune.plan
    monkeypatch.setattr(fxprune, "plan", lambda *a, **k: asked.append(k["seed"]) or plan(*a, **k))
    head = {"preset": "p", "when": "late", "training": "none"}
    rows = [
        subject.measured({"conv*": 0.5}, {**head, "criterion": name, "repair": repair, "seed": seed})
        for name, seed, repair in [
            ("l1", 0, "none"),
            ("l1", 0, "norms"),
            ("random", 0, "none"),
            ("random", 1, "none"),
            ("random", 0, "norms"),
        ]
    ]
    assert asked == [0, 0, 1] and len({row["macs"] for row in rows}) == 1


def test_what_is_said_of_rows() -> None:
    head = {"network": "n", "preset": "p", "repair": "full", "when": "late", "training": "none"}
    rows = [{**head, "criterion": "random", "seed": i, "accuracy": a} for i, a in enumerate((0.1, 0.2, 0.3))]
    nor = "**no**, nor could the dense network"
    for accuracy, whole, said in ((0.41, 0.5, "yes"), (0.39, 0.5, "**no**"), (0.38, 0.39, nor)):  # 0.2 + 2 * 0.1
        mine = {**head, "criterion": "aura_mi", "seed": 0, "accuracy": accuracy}
        dense = {**head, "criterion": "", "training": "", "when": "", "accuracy": whole}
        other = {**mine, "test": 5, "accuracy": 0.9}  # on other images
        found = [*pipeline_table.against_random([dense, *rows, other, mine])]
        assert [line[-2:] for line in found] == [[f"{100 * whole:.2f}", said]]
    guesses = [{**head, "criterion": name, "seed": i, "accuracy": 0.1} for name in ("random", "aura_mi") for i in (0, 1)]
    assert [line[-1] for line in pipeline_table.against_random(guesses)] == ["**no**: all guess alike"]
    trained = [
        {"repair": "full", "training": training, "seed": seed, "accuracy": accuracy}
        for training, seed, accuracy in [
            ("plain", 0, 0.5),
            ("plain", 1, 0.6),
            ("do_conv", 0, 0.52),
            ("do_conv", 1, 0.59),
            ("do_conv", 2, 1),
        ]
    ]
    ((repair, found),) = pipeline_table.pairs(trained)
    assert repair == "full" and found == pytest.approx([0.02, -0.01])


def test_sounds_are_made_anew_the_same_and_their_filters_cover_all_frequencies() -> None:
    one, kinds = clips(20, 3, 24, 16, 160)
    assert one.shape == (20, 1, 16, 24) and kinds.tolist() == [*range(len(KINDS))] * 2
    assert torch.equal(one, clips(20, 3, 24, 16, 160)[0]) and not torch.equal(one, clips(20, 4, 24, 16, 160)[0])
    assert torch.allclose(one.flatten(1).std(1), torch.ones(20)) and one.isfinite().all()
    filters = mel_filters(16, 320)
    assert filters.shape == (16, 161) and (filters.sum(1) > 0).all() and (filters[:, 2:-2].sum(0) > 0).all()


def test_rows_of_other_sounds_have_a_table_of_their_own() -> None:
    shared = {"pipeline": "audio", "network": "n", "images": 5, "epochs": 0, "test": 10, "dense_epochs": 2}
    cut = {"preset": "p", "criterion": "l1", "when": "late", "repair": "none", "training": "none", "macs": 0.5, "params": 0.5}
    dense = {"preset": "", "criterion": "", "when": "", "repair": "", "training": ""}
    found = [
        {**shared, **row, "clips": clips, "seed": 0, "accuracy": accuracy}
        for clips, row, accuracy in ((20, dense, 0.6), (20, cut, 0.2), (40, dense, 0.9), (40, cut, 0.8))
    ]
    text = "\n".join(pipeline_table.table(found))
    assert text.count("### n, p") == 2 and "| l1 | late | none | 20.00 |" in text and "| l1 | late | none | 80.00 |" in text
    assert "dense 60.00 %. 20 sounds" in text and "dense 90.00 %. 40 sounds" in text
