"""Layers called twice, and tied weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Stemmed, conv, network, tokens


@network(
    "a layer called twice",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv2.weight:0", "conv2.weight:1"),
        ("conv2.weight:0", "conv1.weight:0"),
        ("conv2.weight:0", "head.weight:1"),
    ],
)
class CalledTwice(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(torch.relu(self.conv2(x)))


@network(
    "tied weights",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[
        ("conv1.weight:0", "conv2.weight:1"),
        ("conv2.weight:0", "head.weight:1[:8]"),
        ("conv2.weight:0", "head.weight:1[8:]"),
        ("conv2.bias:0", "conv3.bias:0"),
    ],
    apart=[("conv1.weight:0", "conv2.weight:0")],
)
class Tied(Stemmed):
    """Two layers share one weight, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__(head=16)
        self.conv2 = conv(12, 8)
        self.conv3 = conv(12, 8)
        self.conv3.weight = self.conv2.weight

    def middle(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv2(x), self.conv3(torch.relu(x))], 1)


@network(
    "weight tied to its transpose",
    free=["fc1.weight:0", "encode.weight:0"],
    coupled=[("fc1.weight:0", "encode.weight:1"), ("fc1.weight:0", "head.weight:1")],
    apart=[("fc1.weight:0", "encode.weight:0")],
    masked=["encode.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class TiedTranspose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.encode = nn.Linear(16, 6)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(self.encode(torch.relu(self.fc1(x))))
        return self.head(F.linear(code, self.encode.weight.t()))


@network(
    "embedding and tied classifier",
    free=["table.weight:1", "fc1.weight:0"],
    frozen=["table.weight:0"],
    coupled=[("table.weight:1", "fc1.weight:1"), ("table.weight:1", "fc2.weight:0")],
    apart=[("table.weight:1", "fc1.weight:0")],
    inputs=lambda batch: (torch.arange(batch * 6).view(batch, 6) % 10,),
)
class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 12)
        self.fc1 = nn.Linear(12, 16)
        self.fc2 = nn.Linear(16, 12)
        self.head = nn.Linear(12, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x)
        return self.head(x + self.fc2(torch.relu(self.fc1(x))))
