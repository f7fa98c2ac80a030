"""Checkpoints."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from support.zoo import on_meta

from fxprune.errors import InputError
from fxprune.inputs.checkpoints import read_state_dict
from fxprune.inputs.models import load_model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
    ],
    ids=["plain", "state_dict", "model", "DataParallel"],
)
def test_checkpoint_of_torch_save(nets, tmp_path, wrap):
    source = load_model(f"{nets}:Tiny")
    torch.save(wrap(source.state_dict()), tmp_path / "w.pt")
    found = load_model(f"{nets}:Tiny", tmp_path / "w.pt")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), found.parameters(), strict=True))


def test_checkpoint_without_counts_of_batches(tmp_path):
    """As PyTorch wrote them before 0.4.1."""
    (tmp_path / "norm.py").write_text("from torch import nn\ndef net():\n    return nn.Sequential(nn.BatchNorm2d(3))\n")
    state = {
        "0.weight": torch.rand(3),
        "0.bias": torch.rand(3),
        "0.running_mean": torch.rand(3),
        "0.running_var": torch.rand(3),
    }
    save_file(state, tmp_path / "old.safetensors")
    loaded = load_model(f"{tmp_path / 'norm.py'}:net", tmp_path / "old.safetensors").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert loaded["0.num_batches_tracked"] == 0


def test_checkpoint_in_safetensors(nets, tmp_path):
    source = load_model(f"{nets}:Tiny")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    found = load_model(f"{nets}:Tiny", str(tmp_path / "w.safetensors"))
    assert torch.equal(source.weight, found.weight)


def test_segmentation_weights_with_an_auxiliary_classifier(tmp_path):
    build = torchvision.models.segmentation.fcn_resnet50
    published = on_meta(build, weights=None, weights_backbone=None, aux_loss=True)
    torch.save({k: torch.zeros(()).expand(v.shape) for k, v in published.state_dict().items()}, tmp_path / "w.pt")
    found = load_model("torchvision:fcn_resnet50", tmp_path / "w.pt")
    assert found.aux_classifier is not None


class Hostile:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save({"weight": Hostile(tmp_path / "written by the attacker")}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="pickled code is refused"):
        read_state_dict(tmp_path / "w.pt")
    assert [f.name for f in tmp_path.iterdir()] == ["w.pt"]


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pt", b""),
        ("w.pt", b"not a checkpoint"),
        ("w.pt", saved({"weight": torch.zeros(100)})[:-200]),
        ("w.pt", saved([torch.zeros(1)])),
        ("w.pt", saved({"weight": 3})),
        ("w.pt", saved({1: torch.zeros(1)})),
        ("w.safetensors", b""),
        ("w.safetensors", b"\xff" * 64),
        ("w.safetensors", saved({"weight": torch.zeros(1)})),
    ],
    ids=["empty", "text", "cut", "list", "number", "key", "empty st", "noise st", "pickle st"],
)
def test_damaged_checkpoint(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_state_dict(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_checkpoint():
    with pytest.raises(InputError, match="there is no checkpoint file"):
        load_model("timm:test_resnet", "nowhere.pt")


def test_checkpoint_of_another_model_names_the_first_keys(nets, tmp_path):
    state = {"weight": torch.zeros(5, 3), **{f"extra{i}": torch.zeros(1) for i in range(5)}}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError) as caught:
        load_model(f"{nets}:Tiny", tmp_path / "w.pt")
    told = str(caught.value)
    assert "1 missing: bias" in told
    assert "5 not in the model: extra0, extra1, extra2, ..." in told
    assert "1 of another shape: weight is (5, 3), the model's is (2, 3)" in told
