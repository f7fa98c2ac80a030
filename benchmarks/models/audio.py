"""Acoustic scene classifiers: what passive filter pruning (Singh & Plumbley) was measured on."""

from __future__ import annotations

from torch import nn

__all__ = ["DCASE21Net", "VGGish"]


class DCASE21Net(nn.Sequential):
    """Baseline of DCASE 2021, task 1A: ``[clips, 1, 40 mel bands, 500 frames]`` -> ``[clips, 10]``; 46,118 parameters."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        width = 1
        for number, (out, pool) in enumerate([(16, None), (16, (5, 5)), (32, (4, 100))], 1):
            self.add_module(f"conv{number}", nn.Conv2d(width, out, 7, padding=3))
            self.add_module(f"norm{number}", nn.BatchNorm2d(out))
            self.add_module(f"relu{number}", nn.ReLU(inplace=True))
            if pool is not None:
                self.add_module(f"pool{number}", nn.MaxPool2d(pool))
                self.add_module(f"drop{number}", nn.Dropout(0.3))
            width = out
        self.flatten = nn.Flatten()
        self.dense1 = nn.Linear(64, 100)
        self.relu4 = nn.ReLU(inplace=True)
        self.drop4 = nn.Dropout(0.3)
        self.dense2 = nn.Linear(100, classes)


class VGGish(nn.Sequential):
    """VGGish (Hershey et al., ICASSP 2017) with a head for scenes: ``[patches, 1, 96 frames, 64 mel bands]`` ->
    ``[patches, 10]``; 55,361,162 parameters. Each map of the last convolution gives 6 x 4 inputs of the first dense layer.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        width = 1
        for number, out in enumerate([64, 128, 256, 256, 512, 512], 1):
            self.add_module(f"conv{number}", nn.Conv2d(width, out, 3, padding=1))
            self.add_module(f"relu{number}", nn.ReLU(inplace=True))
            if number in (1, 2, 4, 6):
                self.add_module(f"pool{number}", nn.MaxPool2d(2))
            width = out
        self.flatten = nn.Flatten()
        self.dense1 = nn.Linear(512 * 6 * 4, 4096)
        self.relu7 = nn.ReLU(inplace=True)
        self.dense2 = nn.Linear(4096, 128)
        self.relu8 = nn.ReLU(inplace=True)
        self.dense3 = nn.Linear(128, classes)
