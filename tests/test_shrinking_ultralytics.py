"""A slim YOLO in its own class, with the trainer, validator, predictor and exporter of its library."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.libraries import library

import fxprune

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

MODELS = [
    ("yolov8n.yaml", "global"),
    ("yolo11n.yaml", "layer"),
    ("yolov5n.yaml", "global"),
    ("yolov9t.yaml", "global"),
    ("yolov10n.yaml", "global"),
    ("yolo12n.yaml", "global"),
    ("yolo26n.yaml", "global"),
]


def _data(folder: Path) -> Path:
    """Eight images of one rectangle each to learn from, and as many to be tested on."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("images", "labels"):
            (folder / name / part).mkdir(parents=True)
        for number in range(8):
            kind = number % 2
            pixels = draw.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            left, top = draw.integers(4, 28, 2)
            pixels[top : top + 24, left : left + 32, kind] = 230
            Image.fromarray(pixels).save(folder / "images" / part / f"{number}.png")
            box = f"{kind} {(left + 16) / 64} {(top + 12) / 64} 0.5 0.375\n"
            (folder / "labels" / part / f"{number}.txt").write_text(box)
    file = folder / "data.yaml"
    file.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [red, green]\n")
    return file


@pytest.mark.parametrize(("config", "scope"), MODELS)
def test_a_slim_yolo_trains_validates_predicts_and_exports(
    config: str, scope: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ultralytics = library("ultralytics", monkeypatch)
    onnxruntime = library("onnxruntime", monkeypatch)
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils import LOGGER

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    common = {
        "data": str(_data(tmp_path)),
        "imgsz": 64,
        "workers": 0,
        "device": "cpu",
        "plots": False,
        "project": str(tmp_path),
    }
    level = LOGGER.level
    LOGGER.setLevel("ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the library about its own code
            yolo = ultralytics.YOLO(config)
            dense = sum(p.numel() for p in yolo.model.parameters())
            slim = fxprune.prune(yolo.model, 0.3, torch.rand(1, 3, 64, 64), scope=scope, form="module")
            report = slim.meta["fxprune"].own_class
            assert type(slim) is type(yolo.model) and not report.generated, report
            small = sum(p.numel() for p in slim.parameters())
            before = slim.model[0].conv.weight.detach().clone()

            class SlimTrainer(DetectionTrainer):  # type: ignore[misc]
                def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
                    return slim

            yolo.train(trainer=SlimTrainer, epochs=1, batch=4, optimizer="SGD", lr0=0.01, warmup_epochs=0, **common)
            trained = yolo.trainer.best
            assert sum(p.numel() for p in yolo.model.parameters()) == small < 0.85 * dense
            assert not torch.allclose(yolo.model.model[0].conv.weight, before, atol=1e-5)  # it has learned
            assert "metrics/mAP50(B)" in yolo.val(**common).results_dict
            (found,) = yolo.predict("images/val/0.png", imgsz=64, device="cpu", verbose=False)
            assert found.orig_shape == (64, 64) and list(found.names.values()) == ["red", "green"]
            file = ultralytics.YOLO(trained).export(format="onnx", imgsz=64, device="cpu", simplify=False)
    finally:
        LOGGER.setLevel(level)
    image, model = torch.rand(1, 3, 64, 64), ultralytics.YOLO(trained).model
    session = onnxruntime.InferenceSession(file)
    (exported,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(exported), model(image)[0], atol=1e-3, rtol=1e-3)
    stored = fxprune.store(model, tmp_path / "slim")
    again = fxprune.restore(type(model)(config, verbose=False), stored).eval()
    assert torch.equal(again(image)[0], model(image)[0])
