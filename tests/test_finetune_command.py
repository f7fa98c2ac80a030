"""``fxprune finetune``: from files to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.finetuning import CLASSES, Net, data, same

import fxprune
from fxprune.cli.app import main

pytest.importorskip("accelerate", reason="needs the extra `train`")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A dense model, its slim one as `fxprune prune` writes it, and data."""
    import numpy as np

    torch.manual_seed(0)
    model = Net(dropout=0.0).eval()
    save_file(model.state_dict(), tmp_path / "dense.safetensors")
    (tmp_path / "nets.py").write_text("from support.finetuning import Net\n\ndef dense():\n    return Net(0.0)\n")
    fxprune.save(fxprune.prune(model, 0.3, torch.zeros(2, 2, 6, 6)), tmp_path / "slim")
    images, labels = (t.numpy() for t in data().tensors)
    np.savez(tmp_path / "data.npz", inputs=images, labels=labels)
    return tmp_path


@pytest.fixture
def run(capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            main([*map(str, arguments)])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--test", "wide.npz"], "--test does not fit the model"),
        (["--test", "unlabelled.npz"], "--test needs images and labels"),
        (["--teacher-checkpoint", "dense.safetensors"], "--teacher-checkpoint belongs to --teacher"),
        (["--batch-size", "99999999999999999999"], "batch_size is too large"),
    ],
)
def test_what_would_fail_later_is_said_before_anything_is_trained(run, files: Path, monkeypatch, options, said) -> None:
    import numpy as np

    monkeypatch.chdir(files)
    np.savez("wide.npz", inputs=np.zeros((6, 5, 6, 6), np.float32), labels=np.zeros(6, np.int64))
    np.savez("unlabelled.npz", inputs=np.zeros((6, 2, 6, 6), np.float32))
    code, out, err = run("finetune", "slim", "--data", "data.npz", "--out", "tuned", "--epochs", "1", *options)
    assert code == 2 and out == "" and said in err and err.count("\n") == 1 and not Path("tuned").exists()


SHORT = ["--epochs", "2", "--batch-size", "6", "--lr", "0.05", "--set", "device=cpu"]


def test_a_slim_folder_becomes_a_trained_one(run, files: Path) -> None:
    taught = ["--teacher", f"{files / 'nets.py'}:dense", "--teacher-checkpoint", files / "dense.safetensors"]
    command = ["finetune", files / "slim", "--data", files / "data.npz", "--test", files / "data.npz", *taught, *SHORT]
    code, out, err = run(*command, "--out", files / "tuned", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert [e["epoch"] for e in document["epochs"]] == [0, 1] and all(0 <= e["top-1"] <= 1 for e in document["epochs"])
    names = {path.name for path in (files / "tuned").iterdir()}
    assert names == {"slim.py", "slim.safetensors", "finetuning.json", "log.jsonl", "checkpoint.safetensors"}
    found, slim = fxprune.load(files / "tuned"), fxprune.load(files / "slim")
    model = Net(0.0).eval()
    model.load_state_dict(load_file(files / "dense.safetensors"))
    samples = torch.utils.data.TensorDataset(*data().tensors)
    expected = fxprune.finetune(slim, samples, teacher=model, epochs=2, batch_size=6, lr=0.05, device="cpu", progress=False)
    assert same(found, expected) and not same(found, slim)
    hits = (found.eval()(data().tensors[0]).argmax(1) == data().tensors[1]).float().mean()
    assert document["epochs"][-1]["top-1"] == pytest.approx(float(hits))
    code, out, _ = run(*command, "--out", files / "tuned", "--resume")
    assert code == 0 and "held out" in out and "slim.safetensors" in out


def test_a_model_by_name_becomes_its_weights(run, files: Path) -> None:
    command = ["finetune", f"{files / 'nets.py'}:dense", "--checkpoint", files / "dense.safetensors", *SHORT]
    code, _, err = run(*command, "--data", files / "data.npz", "--out", files / "more", "--flip", "--shift", 1, "--ema", 0.5)
    assert code == 0, err
    weights = load_file(files / "more" / "model.safetensors")
    Net().load_state_dict(weights)
    before = load_file(files / "dense.safetensors")
    assert weights.keys() == before.keys() and not torch.equal(weights["head.weight"], before["head.weight"])
    assert weights["head.weight"].shape[0] == CLASSES


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "{files}/slim"], "is the folder of the slim model itself"),
        (["--out", "{files}/new", "--lr", "0"], "lr must be a number above 0"),
        (["--out", "{files}/new", "--set", "momentum"], "not of the form NAME=VALUE"),
        (["--out", "{files}/new", "--set", "lr=3"], "say --lr"),
        (["--out", "{files}/new", "--set", "momentun=0.5"], "did you mean 'momentum'"),
        (["--out", "{files}/new", "--teacher", "timm:resnet5"], "did you mean 'resnet50'"),
    ],
)
def test_an_error_is_one_sentence(run, files: Path, arguments: list[str], said: str) -> None:
    given = [text.format(files=files) for text in arguments]
    code, out, err = run("finetune", files / "slim", "--data", files / "data.npz", *SHORT[:4], *given)
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and said in err
    assert not (files / "new").exists()


def test_sparse_learning_by_name(run, files: Path) -> None:
    command = ["finetune", files / "slim", "--data", files / "data.npz", *SHORT]
    options = ["--sparsity", "admm", "--sparsity-set", "ratio=[0.25,0.5]", "--sparsity-set", "every=2"]
    code, out, err = run(*command, *options, "--out", files / "sparse", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert [stage["ratio"] for stage in document["sparsity"]["stages"]] == [0.25, 0.5]
    assert document["epochs"][-1]["sparsity"]["updates"] == 3
    for wrong, message in (
        (["--sparsity-set", "every=2"], "belongs to --sparsity"),
        (["--sparsity", "amdm"], "did you mean 'admm'"),
        (["--sparsity", "admm", "--sparsity-set", "every"], "--sparsity-set 'every' is not of the form NAME=VALUE"),
        (["--sparsity", "admm", "--sparsity-set", "evry=2"], "did you mean 'every'"),
    ):
        code, _, err = run(*command, *wrong, "--out", files / "no")
        assert code and message in " ".join(err.split()) and not (files / "no" / "checkpoint.safetensors").exists()
