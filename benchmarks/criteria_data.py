"""CIFAR-10 as JPEG, and the networks whose weights go with it.

``cifar10-jpeg-train.npz`` and ``cifar10-jpeg-test.npz`` hold three arrays: ``jpeg``, all files end to end (uint8); ``offset``,
where each begins (n + 1 numbers); ``label``. Quality 75 with chroma subsampling is not the lossless data set: accuracies
compare with each other, and with no paper's.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from models import VGG16BN, CifarResNet
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["Batches", "Cifar", "batches", "load_network"]

Batches = list[tuple[Tensor, Tensor]]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those the weights were trained with


class Cifar:
    """Images ``[n, 3, 32, 32]``, normalised, and labels ``[n]``; what was read once is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, split: str, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` images of ``"train"`` or ``"test"``: classes come in turns."""
        if (split, count) not in self._read:
            self._read[split, count] = self._decode(split, count)
        return self._read[split, count]

    def _decode(self, split: str, count: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        file = self.folder / f"cifar10-jpeg-{split}.npz"
        if not file.exists():
            raise SystemExit(f"{file} is missing: --data names the folder that holds it")
        with np.load(file) as archive:
            offset, label = archive["offset"][: count + 1], archive["label"][:count]
            blob = archive["jpeg"][: offset[-1]].tobytes()
        spans = zip(offset[:-1].tolist(), offset[1:].tolist(), strict=True)
        images = np.stack([np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("RGB")) for a, b in spans])
        values = torch.from_numpy(images).movedim(3, 1).float() / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (_MEAN, _STD))
        return (values - mean) / std, torch.from_numpy(label.astype(np.int64))


def batches(images: Tensor, labels: Tensor, size: int = 100) -> Batches:
    """Pairs of images and labels."""
    return list(zip(images.split(size), labels.split(size), strict=True))


def load_network(file: Path) -> tuple[str, nn.Module]:
    """A network with the weights of a file, in evaluation mode, and its name: a CIFAR ResNet, whose number of blocks tells the
    depth, or VGG-16 with batch norm."""
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise SystemExit(f"{file} cannot be read: {error}") from error
    blocks = sum(name.startswith("layer1.") and name.endswith(".conv1.weight") for name in weights)
    name, model = f"ResNet-{6 * blocks + 2}", None
    if blocks:
        model = CifarResNet(6 * blocks + 2)
    elif "features.conv13.weight" in weights:
        name, model = "VGG-16-BN", VGG16BN()
    if model is None:
        raise SystemExit(f"{file} holds neither a CIFAR ResNet nor VGG-16: there is no layer1.0.conv1.weight")
    model.load_state_dict(weights)
    return name, model.eval()
