"""Small networks for sparse learning, and what their channels are, entry by entry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis


class Residual(nn.Module):
    """Two convolutions into one stream: the stream has three norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.one, self.norm1 = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.two, self.norm2 = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.norm2(self.two(self.norm1(self.one(x)).relu()))).relu()
        return self.head(x.mean((2, 3)))


class Joined(nn.Module):
    """A depthwise convolution, and two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.deep = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4)
        self.norm, self.left, self.right = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.ConvTranspose2d(4, 3, 1)
        self.head = nn.Linear(5 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.deep(self.one(x).relu())).relu()
        return self.head(torch.cat([self.left(x), self.right(x)], 1).relu().flatten(1))


class Shared(nn.Module):
    """One layer used twice, whose outputs are its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.again, self.head = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.one(x))
        return self.head(self.again(self.again(x).tanh()).tanh())


class Attention(nn.Module):
    """Fused projections, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 18), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, 6))


def chain() -> nn.Module:
    layers = [nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "chain": (chain, (3, 1, 6, 6)),
    "residual": (Residual, (3, 2, 5, 5)),
    "joined": (Joined, (3, 2, 6, 6)),
    "shared": (Shared, (3, 3)),
    "attention": (Attention, (2, 5, 4)),
}


def network(kind: str) -> tuple[nn.Module, Tensor]:
    """A network with weights, norms included, that are no round numbers; and inputs."""
    make, shape = NETWORKS[kind]
    model = make()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.3)
    return model, torch.randn(shape)


def entries(analysis: Analysis, model: nn.Module, biases: bool = True) -> dict[str, list[list[tuple[str, tuple[int, ...]]]]]:
    """``{group id: for each channel [(parameter name, index of an entry)]}``, one by one; twice if they count twice."""
    parameters, found = dict(model.named_parameters()), {}
    for group in analysis.free:
        channels = found[group.id] = [[] for _ in range(group.size)]
        for member in group.members:
            tensor = parameters.get(member.name)
            if tensor is None or (not biases and tensor.dim() == 1 and member.name.endswith("bias")):
                continue
            places = list(torch.cartesian_prod(*map(torch.arange, tensor.shape)).reshape(tensor.numel(), -1).tolist())
            for channel, rows in zip(channels, member.indices.tolist(), strict=True):
                for row in rows:
                    channel += [(member.name, tuple(p)) for p in places if p[member.axis] == row]
    return found
