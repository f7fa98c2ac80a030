"""Products with a weight that belongs to no layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.base import Stemmed, network, tokens


@network(
    "einsum with a weight",
    free=["conv1.weight:0", "weight:0"],
    coupled=[("conv1.weight:0", "weight:1"), ("weight:0", "head.weight:1")],
    apart=[("conv1.weight:0", "weight:0")],
    masked=["weight:1"],
)
class Einsum(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=8)
        self.weight = nn.Parameter(torch.randn(8, 12))

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(torch.einsum("bchw,dc->bdhw", x, self.weight))


@network(
    "matmul with a weight",
    free=["fc1.weight:0", "weight:1"],
    coupled=[("fc1.weight:0", "weight:0"), ("weight:1", "head.weight:1"), ("weight:1", "bias:0")],
    masked=["weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class MatmulWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.weight = nn.Parameter(torch.randn(16, 8))
        self.bias = nn.Parameter(torch.zeros(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc1(x)) @ self.weight + self.bias)
