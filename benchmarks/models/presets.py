"""Published cuts, as the ratios that `fxprune.prune` takes: the share of channels to remove, by patterns of layer names.

HRankPlus (github.com/lmbxmu/HRankPlus), which SFM and CHIP share, writes a cut as a list of rates: the stem, the outputs of all
stages but the last, and the inner widths of each block. Passive filter pruning names a set of convolutions and one rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from .audio import DCASE21Net, VGGish
from .cifar_resnet import CifarResNet
from .vgg import VGG16, VGG16BN

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """A network and a cut.

    Attributes:
        network: makes it, with fresh weights.
        shape: of one input, without the batch.
        ratio: ``{pattern of layer names: share of channels to remove}``.
    """

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    ratio: dict[str, float]


def _resnet50(classes: int) -> nn.Module:
    from torchvision.models import resnet50

    return resnet50(num_classes=classes)


def _resnet50_cifar() -> nn.Module:
    """ResNet-50 for 32 x 32 images, with biases as in Keras and a hidden layer of 256 units before the 10 classes."""
    model = _resnet50(10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    model.fc = nn.Sequential(nn.Linear(2048, 256), nn.ReLU(inplace=True), nn.Linear(256, 10))
    return model


def _bottlenecks(stages: float, inner: float) -> dict[str, float]:
    """Outputs of stages 1 to 3 of a ResNet-50, and both inner widths of every block."""
    return {**{f"layer{n}.*.conv3": stages for n in (1, 2, 3)}, "layer*.conv1": inner, "layer*.conv2": inner}


def _basic(stages: float, inner: tuple[float, float, float]) -> dict[str, float]:
    """Outputs of stages 1 and 2 of a CIFAR ResNet with `selectors`, and the inner width of every block by stage."""
    widths = {f"layer{n}.*.conv1": rate for n, rate in enumerate(inner, 1)}
    return {"layer1.*.conv2": stages, "layer2.*.conv2": stages, **widths}


def _plain(rates: list[float]) -> dict[str, float]:
    """Convolutions 1, 2, ... of a network that has no shortcuts; a rate of 0 leaves one whole."""
    return {f"*conv{n}": rate for n, rate in enumerate(rates, 1) if rate}


_IMAGENET, _CIFAR = (3, 224, 224), (3, 32, 32)
_RESNET50, _RESNET50_100 = partial(_resnet50, 1000), partial(_resnet50, 100)
_RESNET56 = partial(CifarResNet, 56, selectors=True)

PRESETS = {
    # Passive filter pruning: all convolutions, or the last five, or the first and the middle ones of bottlenecks.
    **{f"dcase21-{p}": Preset(DCASE21Net, (1, 40, 500), _plain([p / 100] * 3)) for p in (25, 50, 75)},
    **{f"vggish-{p}": Preset(VGGish, (1, 96, 64), _plain([p / 100] * 6)) for p in (25, 50, 75)},
    "vgg16-mnist-90": Preset(VGG16, _CIFAR, _plain([0.9] * 13)),
    **{f"vgg16-cifar-{p}": Preset(VGG16, _CIFAR, _plain([0.0] * 8 + [p / 100] * 5)) for p in (50, 75, 90)},
    **{
        f"resnet50-cifar-{p}": Preset(_resnet50_cifar, _CIFAR, {"conv1": p / 100, "layer*.conv2": p / 100})
        for p in (25, 50, 75, 90)
    },
    # HRankPlus, CHIP and SFM; the last convolution of VGG-16 stays.
    "vgg16bn-low": Preset(VGG16BN, _CIFAR, _plain([0.21] * 7 + [0.75] * 5)),
    "vgg16bn-middle": Preset(VGG16BN, _CIFAR, _plain([0.3] * 7 + [0.75] * 5)),
    "vgg16bn-high": Preset(VGG16BN, _CIFAR, _plain([0.45] * 7 + [0.78] * 5)),
    "resnet56-low": Preset(_RESNET56, _CIFAR, _basic(0.18, (0.18, 0.18, 0.18))),
    "resnet56-middle": Preset(_RESNET56, _CIFAR, _basic(0.15, (0.4, 0.4, 0.4))),
    "resnet56-high": Preset(_RESNET56, _CIFAR, _basic(0.4, (0.5, 0.6, 0.7))),
    "resnet50-low": Preset(_RESNET50, _IMAGENET, _bottlenecks(0.1, 0.35)),
    "resnet50-middle": Preset(_RESNET50, _IMAGENET, _bottlenecks(0.25, 0.5)),
    "resnet50-high": Preset(_RESNET50, _IMAGENET, _bottlenecks(0.5, 0.6)),
    "resnet50-imagenet100": Preset(_RESNET50_100, _IMAGENET, _bottlenecks(0.25, 0.5)),
}
