"""Concatenation, split, shuffle, groups."""

from __future__ import annotations

from pathlib import Path

import torch
from networks import NETWORKS, conv, image
from torch import Tensor, nn

import fxprune
from threads.base import PlainCnn, proved, proved_network, thread


@thread("TP#45 NNI#5298 ShuffleNet units")
def _(folder: Path) -> None:
    proved_network("ShuffleNet unit", scope="layer")
    proved_network("channel shuffle", scope="layer")


@thread("TP#146 same tensor concatenated twice")
def _(folder: Path) -> None:
    slim = proved_network("same tensor concatenated twice", scope="layer")
    assert slim.get_submodule("head").in_channels == 2 * slim.get_submodule("conv1").out_channels == 12


@thread("TP#328 MobileNet channels not divisible by the groups")
def _(folder: Path) -> None:
    from torchvision.models import mobilenet_v2

    for ratio in (0.37, 0.5):
        slim = proved(mobilenet_v2(width_mult=0.25, num_classes=5), ratio, (image(2, size=32),))
        for module in slim.modules():
            if isinstance(module, nn.Conv2d):
                assert module.in_channels % module.groups == 0 == module.out_channels % module.groups


@thread("TP#481 TNN#72 concatenation keeps apart what is not coupled")
def _(folder: Path) -> None:
    plan = fxprune.plan(NETWORKS["concatenation"].build(), 0.5, image(2), scope="layer")
    first, second = (next(g for g in plan.groups if g.id == f"conv{i}.weight") for i in (1, 2))
    assert first.size == 12 and second.size == 8
    assert len(first.kept) == 6 and len(second.kept) == 4
    proved_network("concatenation split elsewhere", scope="layer")
    proved_network("norm over a concatenation", scope="layer")


@thread("TNN#108 TNN#109 never zero channels")
def _(folder: Path) -> None:
    model = PlainCnn()
    with torch.no_grad():  # one global ranking would empty this layer first
        model.conv2.weight.mul_(1e-6)
        model.conv2.bias.mul_(1e-6)
    for options in ({"scope": "global"}, {"scope": "layer"}, {"max_ratio": 1.0}):
        slim = fxprune.prune(model, 0.9, image(2), **options)
        assert all(0 not in p.shape for p in slim.parameters())
        assert all(g.kept for g in slim.meta["fxprune"].plan.groups)


@thread("TNN#272 parallel branches keep all their operators")
def _(folder: Path) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(conv(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
            self.b = nn.Sequential(conv(3, 6), nn.SiLU(), conv(6, 8))
            self.c = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(3, 4, 1))
            self.d = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(3, 8, 5))
            self.head = conv(20, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(torch.cat([self.a(x) + self.d(x), self.b(x), self.c(x)], 1))
            return found

    model = Branches()
    slim = proved(model, 0.5, (image(2),), scope="layer")

    def leaves(module: nn.Module) -> set[tuple[str, type]]:
        return {(n, type(m)) for n, m in module.named_modules() if not list(m.children())}

    assert leaves(model) <= leaves(slim)


@thread("OTO#39 grouped convolution and slices")
def _(folder: Path) -> None:
    class GroupedSlices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = conv(3, 16)
            self.conv2 = conv(16, 16, groups=4)
            self.conv3 = conv(8, 8, groups=2)
            self.head = conv(16, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
            found: Tensor = self.head(torch.cat([self.conv3(x[:, :8]), x[:, 8:]], 1))
            return found

    for ratio in (0.3, 0.5, 0.7):
        proved(GroupedSlices(), ratio, (image(2),), scope="layer")


@thread("OTO#46 parameters of its own, outside of layers")
def _(folder: Path) -> None:
    proved_network("parameters of shape (1, C, 1, 1) and (C, H, W)", scope="layer")
    proved_network("einsum with a weight", scope="layer")
