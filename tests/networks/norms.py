"""Norms, and parameters and buffers with an entry a channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import Stemmed, conv, network, tokens


@network("GroupNorm", free=["conv1.weight:0"], coupled=[("conv1.weight:0", "norm.weight:0")], inexact=None)
class GroupNorm(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(3, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(x)


@network(
    "GroupNorm of one group",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.bias:0"), ("conv1.weight:0", "head.weight:1")],
    inexact=["conv1.weight:0"],
)
class GroupNormOne(GroupNorm):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 12)


@network(
    "GroupNorm, a group a channel",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.bias:0"), ("conv1.weight:0", "head.weight:1")],
)
class GroupNormEach(GroupNorm):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(12, 12)


@network(
    "InstanceNorm",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.weight:0"), ("conv1.weight:0", "norm.running_mean:0")],
)
class InstanceNorm(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(12, affine=True, track_running_stats=True)

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(x)


@network(
    "BatchNorm without parameters",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.running_var:0")],
)
class PlainBatchNorm(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(12, affine=False)

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(torch.relu(x))


@network(
    "LayerNorm",
    free=["fc1.weight:0", "fc2.weight:0"],
    coupled=[
        ("fc1.weight:0", "norm.weight:0"),
        ("fc1.weight:0", "fc2.weight:1"),
        ("fc2.weight:0", "head.weight:1"),
    ],
    apart=[("fc1.weight:0", "fc2.weight:0")],
    inexact=["fc1.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class LayerNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.norm = nn.LayerNorm(16)
        self.fc2 = nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.fc2(self.norm(self.fc1(x)))))


@network(
    "LayerNorm of whole maps",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.weight:0"), ("conv1.weight:0", "head.weight:1")],
    inexact=["conv1.weight:0"],
)
class LayerNormMaps(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm([12, 8, 8])

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(x)


@network(
    "LayerNorm over channels of a map (ConvNeXt)",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "norm.weight:0")],
    inexact=["conv1.weight:0"],
)
class LayerNorm2d(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)

    def middle(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.norm.normalized_shape, self.norm.weight, self.norm.bias).permute(0, 3, 1, 2)


@network(
    "RMSNorm",
    free=["fc1.weight:0", "fc2.weight:0"],
    coupled=[("fc1.weight:0", "norm.weight:0"), ("fc1.weight:0", "fc2.weight:1")],
    inexact=["fc1.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class RmsNorm(LayerNorm):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(16)


@network(
    "RMSNorm written out",
    free=["fc1.weight:0", "fc2.weight:0"],
    coupled=[("fc1.weight:0", "gain:0"), ("fc1.weight:0", "fc2.weight:1")],
    inexact=["fc1.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class RmsNormWritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.gain = nn.Parameter(torch.ones(16))
        self.fc2 = nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        return self.head(F.silu(self.fc2(x)))


@network(
    "global response norm",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "gamma:1"), ("conv1.weight:0", "beta:1")],
    inexact=["conv1.weight:0"],
)
class ResponseNorm(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 12, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, 12, 1, 1))

    def middle(self, x: Tensor) -> Tensor:
        strength = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        return x + x * strength / (strength.mean(1, keepdim=True) + 1e-6) * self.gamma + self.beta


@network(
    "per-channel buffer",
    free=["conv1.weight:0"],
    coupled=[("conv1.weight:0", "scale:0"), ("conv1.weight:0", "head.weight:1")],
)
class ChannelBuffer(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 12))

    def middle(self, x: Tensor) -> Tensor:
        return x * self.scale.view(1, -1, 1, 1)


@network(
    "per-channel constant written in forward",
    free=["conv2.weight:0"],
    frozen=["conv1.weight:0", "conv2.weight:1"],
    placed=True,
)
class ChannelList(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        steps = torch.tensor([0.5, -1.0, 2.0, 0.25] * 3, dtype=x.dtype, device=x.device)
        return self.conv2(x * steps.reshape(1, 12, 1, 1))


@network(
    "per-channel constant computed in forward",
    placed=True,
    free=["conv2.weight:0"],
    frozen=["conv1.weight:0", "conv2.weight:1"],
)
class ChannelConstant(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        steps = torch.arange(12, dtype=x.dtype, device=x.device)
        return self.conv2(x + (steps * 0.25).view(1, 12, 1, 1))


@network(
    "parameters of shape (1, C, 1, 1) and (C, H, W)",
    free=["conv1.weight:0"],
    frozen=["position:1", "position:2"],
    coupled=[("conv1.weight:0", "gamma:1"), ("conv1.weight:0", "position:0")],
)
class ChannelParameters(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, 12, 1, 1))
        self.position = nn.Parameter(torch.zeros(12, 8, 8))

    def middle(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.position


@network("PReLU, a slope a channel", free=["conv1.weight:0"], coupled=[("conv1.weight:0", "act.weight:0")])
class PRelu(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.PReLU(12)

    def middle(self, x: Tensor) -> Tensor:
        return self.act(x)


@network(
    "softmax over channels",
    free=["conv1.weight:0", "conv2.weight:0"],
    coupled=[("conv1.weight:0", "conv2.weight:1"), ("conv2.weight:0", "head.weight:1")],
    inexact=["conv1.weight:0"],
)
class ChannelSoftmax(Stemmed):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = conv(12, 12)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv2(x.softmax(1))
