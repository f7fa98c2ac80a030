"""ResNets for 32 x 32 images (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CifarResNet", "Selector"]

_WIDTHS = (16, 32, 64)


class CifarResNet(nn.Module):
    """ResNet-20, -32, -44, -56, -110: three stages of ``(depth - 2) / 6`` blocks, of width 16, 32 and 64.

    Shortcuts are of option A, without parameters: where the width changes, every second row and column, and zero channels
    on both sides. So a channel of one stage continues as a channel of the next, and they can only go together.

    Args:
        depth: layers with weights: 6 n + 2.
        classes: outputs.
        selectors: write the first shortcut of each stage as a product with a constant matrix of zeros and ones. The network
            computes the same, but widths before and after are independent, as in slim ResNets whose stages have
            widths of their own. The matrices are buffers, which are not in the ``state_dict``.
    """

    def __init__(self, depth: int, classes: int = 10, selectors: bool = False) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 2 with n of at least 1, not {depth}")
        self.conv1, self.bn1 = _conv(3, 16, 1), nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1, selectors)
        self.layer2 = _stage(16, 32, blocks, 2, selectors)
        self.layer3 = _stage(32, 64, blocks, 2, selectors)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``[images, 3, height, width]`` -> ``[images, classes]``."""
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, width: int, out: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(width, out, stride), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = _conv(out, out, 1), nn.BatchNorm2d(out)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


class Padded(nn.Module):
    """Option A: every second row and column, and `extra` channels of zeros, half of them on each side."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class Selector(nn.Module):
    """`Padded` as a 1 x 1 convolution with a constant ``[out, width, 1, 1]`` of zeros and ones."""

    matrix: Tensor

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        matrix = nn.functional.pad(torch.eye(width), (0, 0, (out - width) // 2, out - width - (out - width) // 2))
        self.register_buffer("matrix", matrix[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.matrix, stride=self.stride)


def _conv(width: int, out: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(width, out, 3, stride, 1, bias=False)


def _stage(width: int, out: int, blocks: int, stride: int, selectors: bool) -> nn.Sequential:
    first: nn.Module = nn.Identity() if out == width else Padded(out - width)
    if selectors:
        first = Selector(width, out, stride)
    rest = [Block(out, out, 1, nn.Identity()) for _ in range(blocks - 1)]
    return nn.Sequential(Block(width, out, stride, first), *rest)
