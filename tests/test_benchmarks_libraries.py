"""The benchmark of libraries: its processes, its tables, and (slow) a few models of every library that is installed."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import library_nest
import library_onnx
import pytest

ROOT = Path(__file__).parent.parent
FEW = {
    "transformers": ("LlamaForCausalLM", "BertModel", "ViTForImageClassification", "WhisperModel"),
    "ultralytics": ("yolov8n", "yolo11n"),
    "segmentation_models_pytorch": ("Unet resnet18", "FPN resnet18", "DeepLabV3Plus resnet18"),
    "diffusers": ("UNet2DModel", "AutoencoderKL", "DiTTransformer2DModel"),
    "open_clip": ("ViT", "RN50"),
    "pytorchcv": ("resnet10", "shufflenet_g3_w1"),
    "torchaudio": ("wav2vec2_model", "ConvTasNet"),
    "monai": ("UNet", "SegResNet"),
    "efficientnet_pytorch": ("efficientnet-b0",),
    "torch": ("LSTM", "TransformerEncoder"),
}


def rows(out: Path, *arguments: object) -> list[dict]:
    """What the benchmark wrote down."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "benchmarks" / "libraries.py"), "--out", str(out), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (out / "libraries.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_model_is_tried_once(tmp_path: Path) -> None:
    arguments = ("--library", "torch", "--model", "RNN", "--no-peer")
    (row,) = rows(tmp_path, *arguments)
    assert "errors" not in row
    assert row["certificate"] and row["other_batch"] and row["reload"]
    assert row["macs"][1] < row["macs"][0] and row["batch"] == 2
    table = (tmp_path / "libraries.md").read_text()
    assert "| RNN |" in table and "1 of 1 pruned with a certificate" in table
    assert rows(tmp_path, *arguments) == [row]  # a result that is there is not made again


def test_a_model_that_is_stopped_has_a_row() -> None:
    row = library_nest.answer({"model": "any", "limit": 0.01}, lambda job, events: time.sleep(5))
    assert row["errors"] == {"start": "more than 0.01 s"}


def test_a_runtime_that_errs_is_told_from_an_export_that_does() -> None:
    assert doctest.testmod(library_onnx).failed == 0
    bad = {"onnx": True, "onnx_error": 0.38, "onnx_plain": 1e-6, "onnx_dense": 0.39, "onnx_dense_plain": 1e-6}
    assert library_onnx.onnx_note(bad) == (
        "ONNX Runtime differs by 3.8e-01 (the dense model by 3.9e-01), "
        "without its optimizations by 1.0e-06 (the dense model by 1.0e-06)"
    )
    assert library_onnx.onnx_note({"onnx": True, "onnx_error": 1e-6}) is None


@pytest.mark.slow
def test_a_model_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, "--library", "torch", "--model", "RNN", "--seconds", 0.01)
    assert list(row["errors"].values()) == ["more than 0.01 s"]
    assert "0 of 1 pruned" in (tmp_path / "libraries.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("library", FEW)
def test_a_few_models_of_a_library(library: str, tmp_path: Path) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    found = {row["model"]: row for row in rows(tmp_path, "--library", library, "--exactly", *FEW[library], "--no-peer")}
    assert set(found) == set(FEW[library])
    assert [name for name, row in found.items() if not row.get("certificate")] == []
