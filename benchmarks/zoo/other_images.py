"""Networks of images and volumes of efficientnet_pytorch, monai and pytorchcv."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoo.base import Entry, Inputs, images

__all__ = ["CV", "EFFICIENTNET", "MONAI"]


def efficientnet(number: int) -> Entry:
    """An EfficientNet by name."""

    def make() -> nn.Module:
        library: Any = importlib.import_module("efficientnet_pytorch")
        return library.EfficientNet.from_name(f"efficientnet-b{number}", num_classes=10)

    return Entry(f"efficientnet-b{number}", make, images(64), ("_fc",))


def medical(kind: str, inputs: Callable[[int], Inputs], outputs: tuple[str, ...] = (), **settings: Any) -> Entry:
    """A network of monai."""

    def make() -> nn.Module:
        return getattr(importlib.import_module("monai.networks.nets"), kind)(**settings)

    return Entry(kind, make, inputs, outputs)


def cv(name: str, size: int = 224) -> Entry:
    """A network of pytorchcv by name."""

    def make() -> nn.Module:
        return importlib.import_module("pytorchcv.model_provider").get_model(name)  # type: ignore[no-any-return]

    return Entry(name, make, images(size), ("output",))


def volumes(size: int) -> Callable[[int], Inputs]:
    """Cubes of one channel."""
    return lambda batch: (torch.randn(batch, 1, size, size, size),)


PLANE: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
SPACE: dict[str, Any] = {**PLANE, "spatial_dims": 3}
STEPS: dict[str, Any] = {"channels": (8, 16, 32), "strides": (2, 2)}
EFFICIENTNET = [efficientnet(n) for n in range(8)]
MONAI = [
    medical("UNet", images(32, 1), **PLANE, **STEPS, num_res_units=2),
    medical("AttentionUnet", images(32, 1), **PLANE, **STEPS),
    medical("BasicUNet", images(32, 1), **PLANE, features=(8, 8, 16, 32, 32, 8)),
    medical("SegResNet", volumes(16), **SPACE, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)),
    medical(
        "DynUNet",
        volumes(16),
        **SPACE,
        kernel_size=(3, 3, 3),
        strides=(1, 2, 2),
        upsample_kernel_size=(2, 2),
        filters=(8, 16, 32),
    ),
    medical("VNet", volumes(32), spatial_dims=3, in_channels=1, out_channels=2),
    medical(
        "UNETR",
        volumes(32),
        in_channels=1,
        out_channels=2,
        img_size=(32, 32, 32),
        feature_size=8,
        hidden_size=32,
        mlp_dim=64,
        num_heads=4,
    ),
    medical(
        "SwinUNETR", volumes(64), in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)
    ),
    medical("DenseNet", images(32, 1), **PLANE, block_config=(2, 2), init_features=16, growth_rate=8),
    medical("SEResNet50", images(64, 1), spatial_dims=2, in_channels=1, num_classes=4),
    medical("HighResNet", images(32, 1), **PLANE),
    medical(
        "ViT",
        images(32, 1),
        in_channels=1,
        img_size=(32, 32),
        patch_size=(8, 8),
        hidden_size=32,
        mlp_dim=64,
        num_layers=2,
        num_heads=4,
        classification=True,
        spatial_dims=2,
    ),
]
CV = [
    cv(name)
    for name in (
        *(
            "resnet10",
            "preresnet10",
            "seresnet10",
            "mobilenet_w1",
            "mobilenetv2_w1",
            "mobilenetv3_large_w1",
            "shufflenet_g3_w1",
        ),
        *(
            "shufflenetv2_w1",
            "squeezenet_v1_1",
            "densenet121",
            "igcv3_w1",
            "ghostnet",
            "dla34",
            "hardnet39ds",
            "resnext26_32x4d",
        ),
    )
]
