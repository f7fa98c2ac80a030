"""Gates: channels multiplied by what is computed from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Stemmed, conv, network


@network(
    "squeeze-excite",
    free=["conv1.weight:0", "fc1.weight:0", "fc2.weight:0"],
    coupled=[
        ("conv1.weight:0", "fc1.weight:1"),
        ("conv1.weight:0", "fc2.weight:0"),
        ("fc1.weight:0", "fc2.weight:1"),
    ],
    apart=[("conv1.weight:0", "fc1.weight:0")],
)
class SqueezeExcite(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = conv(12, 6, 1)
        self.fc2 = conv(6, 12, 1)

    def middle(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(gate))))


@network(
    "squeeze-excite by linear layers",
    free=["conv1.weight:0", "fc1.weight:0", "fc2.weight:0"],
    coupled=[("conv1.weight:0", "fc1.weight:1"), ("conv1.weight:0", "fc2.weight:0")],
)
class SqueezeExciteLinear(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Linear(12, 6)
        self.fc2 = nn.Linear(6, 12)

    def middle(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        gate = self.pool(x).view(b, c)
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(gate)))).view(b, c, 1, 1)
        return x * gate.expand_as(x)


@network(
    "ECA (conv1d over channels)",
    free=["conv2.weight:0"],
    frozen=["conv1.weight:0", "eca.weight:0"],
    blocked="conv",
)
class Eca(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3)).unsqueeze(1)
        gate = torch.sigmoid(self.eca(gate)).transpose(1, 2).unsqueeze(-1)
        return self.conv2(x * gate)


@network(
    "CBAM spatial gate (mean and maximum over channels)",
    free=["conv1.weight:0"],
    frozen=["gate.weight:1"],
    coupled=[("conv1.weight:0", "head.weight:1")],
    inexact=["conv1.weight:0"],
)
class Cbam(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.gate = conv(2, 1)

    def middle(self, x: Tensor) -> Tensor:
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.gate(summary))
