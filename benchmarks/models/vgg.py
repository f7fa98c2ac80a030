"""VGG-16 for small images, in the two forms that pruning papers use."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["VGG16", "VGG16BN"]

_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


class VGG16BN(nn.Module):
    """VGG-16 for CIFAR-10 as in HRank (Lin et al., CVPR 2020): convolution, batch norm, ReLU.

    Pools after convolutions 2, 4, 7 and 10 and an average over what is left, 2 x 2; then 512 units and the classes.
    14,991,946 parameters for 10 classes.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential()
        width = 3
        for number, out in enumerate(_WIDTHS, 1):
            self.features.add_module(f"conv{number}", nn.Conv2d(width, out, 3, padding=1))
            self.features.add_module(f"norm{number}", nn.BatchNorm2d(out))
            self.features.add_module(f"relu{number}", nn.ReLU(inplace=True))
            if number in (2, 4, 7, 10):
                self.features.add_module(f"pool{number}", nn.MaxPool2d(2))
            width = out
        self.features.add_module("pool13", nn.AvgPool2d(2))
        self.classifier = nn.Sequential(
            nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[images, 3, 32, 32]`` -> ``[images, classes]``."""
        return self.classifier(self.features(x).flatten(1))


class VGG16(nn.Module):
    """VGG-16 for CIFAR-10 and MNIST as in passive filter pruning (Singh & Plumbley): convolution, ReLU, batch norm.

    Dropout between the convolutions, five pools, then 512 units and the classes. MNIST has three input channels there, too.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential()
        width = 3
        for number, out in enumerate(_WIDTHS, 1):
            self.features.add_module(f"conv{number}", nn.Conv2d(width, out, 3, padding=1))
            self.features.add_module(f"relu{number}", nn.ReLU(inplace=True))
            self.features.add_module(f"norm{number}", nn.BatchNorm2d(out))
            if number in (2, 4, 7, 10, 13):
                self.features.add_module(f"pool{number}", nn.MaxPool2d(2))
            else:
                self.features.add_module(f"drop{number}", nn.Dropout(0.3 if number == 1 else 0.4))
            width = out
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(512),
            nn.Dropout(0.5),
            nn.Linear(512, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[images, 3, 32, 32]`` -> ``[images, classes]``."""
        return self.classifier(self.features(x).flatten(1))
