"""Networks of the papers whose criteria fxprune has, and the cuts that those papers publish (`presets`).

Widths, order of layers and counts are those published; the code is written anew.
"""

from .audio import DCASE21Net, VGGish
from .cifar_resnet import CifarResNet
from .presets import PRESETS, Preset
from .vgg import VGG16, VGG16BN

__all__ = ["PRESETS", "VGG16", "VGG16BN", "CifarResNet", "DCASE21Net", "Preset", "VGGish"]
