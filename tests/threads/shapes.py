"""Shape errors after pruning."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from helpers import run
from networks import conv, image, tokens
from torch import Tensor, nn

from threads.base import PlainCnn, proved, proved_network, thread


@thread("TP#101 TP#340 a transformer with literal head sizes")
def _(folder: Path) -> None:
    for attention in ("head_dim", "heads", "both"):
        proved_network("transformer block with class token and positions", attention=attention, scope="layer")


@thread("TP#287 TP#357 TP#450 windows and position tables")
def _(folder: Path) -> None:
    proved_network("window attention", scope="layer")


@thread("INC#525 head count in reshape")
def _(folder: Path) -> None:
    """Two of three heads go: the views must follow, and the scale of each head stays."""
    slim = proved_network("fused qkv", 0.6, attention="heads", scope="layer")
    assert slim.get_submodule("qkv").out_features in (12, 24)
    assert run(slim, (tokens(3).double(),)).shape == (3, 6, 5)


@thread("NNI#5449 reshape keeps its arguments")
def _(folder: Path) -> None:
    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 12)
            self.fc1 = nn.Linear(64, 10)
            self.fc2 = nn.Linear(120, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x = x.reshape(x.size(0), 12, -1)
            x = self.fc1(x)
            found: Tensor = self.fc2(torch.reshape(x, (x.shape[0], 10 * 12)))
            return found

    slim = proved(Reshaped(), 0.5, (image(2),), scope="layer")
    assert run(slim, (image(5).double(),)).shape == (5, 5)
    # Of 12 channels x 10 features, the finer factor loses entries.
    assert slim.get_submodule("fc2").in_features == 60


@thread("TNN#65 TNN#325 sizes written as numbers in view")
def _(folder: Path) -> None:
    proved_network("reshape with literal sizes before linear", scope="layer")


@thread("TP#125 attributes that hold sizes need no editing")
def _(folder: Path) -> None:
    class Attributed(PlainCnn):
        def __init__(self) -> None:
            super().__init__()
            self.width = 32

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv3(torch.relu(self.conv2(self.conv1(x)))))
            x = F.adaptive_avg_pool2d(x, 1).view(-1, self.width)
            found: Tensor = self.fc(x)
            return found

    proved(Attributed(), 0.5, (image(2),), scope="layer")


@thread("LLM-Pruner#69 fewer key heads than query heads")
def _(folder: Path) -> None:
    for attention in ("head_dim", "heads", "both"):
        proved_network("grouped-query attention", attention=attention, scope="layer")
