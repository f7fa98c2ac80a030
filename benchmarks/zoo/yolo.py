"""Networks of ultralytics, by the files of settings that it ships: YOLO of every generation and task, and RT-DETR."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from zoo.base import Entry, fused, images, ran, trained

__all__ = ["ENTRIES"]

SIZE = 96  # a multiple of the largest stride


def net(settings: str, kind: str = "DetectionModel") -> Entry:
    """An entry for one file of settings."""

    def make() -> nn.Module:
        tasks: Any = importlib.import_module("ultralytics.nn.tasks")
        built = {} if kind == "RTDETRDetectionModel" else {"verbose": False}
        return getattr(tasks, kind)(f"{settings}.yaml", **built)

    last = "model.9" if kind == "ClassificationModel" else ""
    return Entry(settings, make, images(SIZE), (last or "head",), onnx=True)


BEFORE = [net(name) for name in ("yolov8n", "yolo11n", "yolo12n")]
ENTRIES = [
    *(net(name) for name in ("yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n")),
    *(net(f"{name}-seg", "SegmentationModel") for name in ("yolov8n", "yolo11n", "yolo12n")),
    *(net(f"{name}-pose", "PoseModel") for name in ("yolov8n", "yolo11n", "yolo12n")),
    *(net(f"{name}-obb", "OBBModel") for name in ("yolov8n", "yolo11n", "yolo12n")),
    *(net(f"{name}-cls", "ClassificationModel") for name in ("yolov8n", "yolo11n", "yolo12n")),
    *(change(entry) for entry in BEFORE for change in (ran, trained, fused)),
    net("rtdetr-resnet50", "RTDETRDetectionModel"),
]
