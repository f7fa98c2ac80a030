"""Networks of segmentation_models_pytorch: every decoder, over encoders of its own and of timm."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from zoo.base import Entry, images

__all__ = ["ENTRIES"]

DECODERS = (
    "Unet",
    "UnetPlusPlus",
    "FPN",
    "MAnet",
    "PAN",
    "PSPNet",
    "Linknet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
    "Segformer",
)
ENCODERS = ("mobilenet_v2", "efficientnet-b0", "mit_b0", "tu-resnet10t")


def net(decoder: str, encoder: str, **settings: Any) -> Entry:
    """An entry with random weights."""

    def make() -> nn.Module:
        library: Any = importlib.import_module("segmentation_models_pytorch")
        return getattr(library, decoder)(encoder, encoder_weights=None, classes=3, **settings)

    name = f"{decoder} {encoder}{''.join(f' {k}={v}' for k, v in settings.items())}"
    size = 128 if decoder == "PAN" else 64  # its pyramid halves the image seven times
    return Entry(name, make, images(size), ("segmentation_head",))


ENTRIES = [
    *(net(decoder, "resnet18") for decoder in DECODERS),
    *(net("Unet", encoder) for encoder in ENCODERS),
    net("Unet", "resnet18", decoder_attention_type="scse"),
]
