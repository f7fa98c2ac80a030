"""Recurrent layers, an operator without a rule, dropout, resampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Stemmed, conv, network


@network(
    "LSTM interface",
    free=["conv1.weight:0", "fc.weight:0"],
    frozen=["lstm.weight_hh_l0:0", "lstm.weight_ih_l0:0"],
    coupled=[("conv1.weight:0", "lstm.weight_ih_l0:1")],
    masked=["lstm.weight_ih_l0:1"],
)
class LstmInterface(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 7, batch_first=True)
        self.fc = nn.Linear(7, 12)

    def middle(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x.mean(3).permute(0, 2, 1))
        return self.fc(y).permute(0, 2, 1).unsqueeze(-1)


@network(
    "GRU interface, two layers, both directions",
    free=["conv1.weight:0", "fc.weight:0"],
    frozen=["gru.weight_ih_l1:1", "gru.weight_ih_l0:0"],
    coupled=[("conv1.weight:0", "gru.weight_ih_l0:1"), ("conv1.weight:0", "gru.weight_ih_l0_reverse:1")],
    masked=["gru.weight_ih_l0:1", "gru.weight_ih_l0_reverse:1"],
)
class GruInterface(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(12, 7, num_layers=2, bidirectional=True)
        self.fc = nn.Linear(14, 12)

    def middle(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x.mean(3).permute(2, 0, 1))
        return self.fc(y).permute(1, 2, 0).unsqueeze(-1)


@torch.library.custom_op("fxprune_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    """An operator that no rule can know."""
    return x * 0.5


@halve.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@halve.register_kernel("cpu")
def _(x: Tensor) -> Tensor:
    return x * 0.5


halve.register_autograd(lambda ctx, grad: grad * 0.5)


@network(
    "custom operator",
    free=["conv2.weight:0"],
    frozen=["conv1.weight:0", "conv2.weight:1"],
    blocked="halve",
)
class CustomOperator(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(halve(x))


@network(
    "dropout in every form",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1")],
)
class Dropouts(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(0.3)
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        x = self.conv2(F.dropout(self.drop(x), 0.2, training=self.training))
        if self.training:
            return x * (torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device) < 0.8)
        return x


@network(
    "resampling",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1"), ("conv1.weight:0", "head.weight:1[:12]")],
)
class Resampling(Stemmed):
    def __init__(self) -> None:
        super().__init__(head=20)
        self.conv2 = conv(12, 8)

    def middle(self, x: Tensor) -> Tensor:
        y = self.conv2(F.avg_pool2d(x, 2))
        y = F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([x, y], 1)
