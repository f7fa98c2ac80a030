"""Reshapes and moves that put channels and places, or channels and samples, on one axis; with other sizes at other batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case

__all__ = ["CASES"]

SIDES = {2: 8, 3: 16, 1: 12, 4: 4}  # batch -> height and width


class Mixed(nn.Module):
    """``a`` (3 -> 16 channels), what the user wrote between (to 16 channels), and ``b`` (16 -> 4)."""

    def __init__(self, between: Callable[[Tensor], Tensor], channels: int = 16) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 16, 1), nn.Conv2d(channels, 4, 1), between
        self.c = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.between(self.a(x))).relu())


def maps(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, SIDES[batch], SIDES[batch]),)


def small_maps(batch: int) -> tuple[Tensor, ...]:
    """Maps of fewer places than channels."""
    return (torch.randn(batch, 3, SIDES[batch] // 4, SIDES[batch] // 2),)


def case(name: str, between: Callable[[Tensor], Tensor], channels: int = 16) -> Case:
    """A case with other heights and widths at other batches."""
    return Case(name, lambda: Mixed(between, channels), maps)


def _raw_back(h: Tensor) -> Tensor:
    """Tokens put back as a map without a transpose."""
    batch, channels, height, width = h.shape
    return h.flatten(2).transpose(1, 2).reshape(batch, channels, height, width)


def _raw_there(h: Tensor) -> Tensor:
    """A map read as tokens without a transpose."""
    batch, channels, height, width = h.shape
    return h.reshape(batch, height * width, channels).transpose(1, 2).reshape(batch, channels, height, width)


def _flat_and_back(h: Tensor) -> Tensor:
    return h.flatten(1).view(h.size())


def _flat_and_mixed(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    return h.flatten(1).view(batch, -1, channels).transpose(1, 2).reshape(batch, channels, height, width)


def _tokens(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    return h.flatten(2).transpose(1, 2).transpose(1, 2).reshape(batch, channels, height, width)


def _pairs_of_tokens(h: Tensor) -> Tensor:
    """Two neighbouring tokens become one of twice the channels."""
    batch, channels, height, width = h.shape
    t = h.flatten(2).transpose(1, 2).reshape(batch, height * width // 2, channels * 2)
    return t.transpose(1, 2).reshape(batch, channels * 2, height, width // 2)


def _shuffled(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    return h.view(batch, 4, channels // 4, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def _shuffled_with_samples(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    pairs = h.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
    pairs = pairs.reshape(2, -1, channels // 2, height, width)
    return torch.cat((pairs[0], pairs[1]), 1)


def _patches(h: Tensor) -> Tensor:
    """Patches by views in which samples, channels and rows share an axis."""
    batch, channels, height, width = h.shape
    rows, columns = height // 2, width // 2
    patches = h.reshape(batch * channels * rows, 2, columns, 2).transpose(1, 2)
    patches = patches.reshape(batch, channels, rows * columns, 4).transpose(1, 3).tanh()
    patches = patches.transpose(1, 3).reshape(batch * channels * rows, columns, 2, 2)
    return patches.transpose(1, 2).reshape(batch, channels, height, width)


def _pairs_of_rows(h: Tensor) -> Tensor:
    """Pairs of places of all channels on one axis."""
    batch, channels, height, width = h.shape
    return h.reshape(batch, channels * height * width // 2, 2).softmax(-1).reshape(batch, channels, height, width)


def _samples_and_channels(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    return h.flatten(0, 1).unsqueeze(1).tanh().view(batch, channels, height, width)


def _space_to_depth(h: Tensor) -> Tensor:
    return torch.cat([h[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def _space_to_depth_by_views(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    h = h.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return h.reshape(batch, 4 * channels, height // 2, width // 2)


def _haar(h: Tensor) -> Tensor:
    a, b, c, d = h[:, :, ::2, ::2], h[:, :, 1::2, ::2], h[:, :, ::2, 1::2], h[:, :, 1::2, 1::2]
    return torch.stack((a + b + c + d, a - b, a - c, a - d), 1).flatten(1, 2)


def _halves(h: Tensor) -> Tensor:
    left, right = h.chunk(2, 1)
    return torch.cat((left * right.sigmoid(), right), 1)


def _split_by_size(h: Tensor) -> Tensor:
    first, second = torch.split(h, h.shape[1] // 4, 1)[:2], h[:, h.shape[1] // 2 :]
    return torch.cat((*first, second.tanh()), 1)


def _rows_as_channels(h: Tensor) -> Tensor:
    """Channels times rows as one axis, softened, and taken apart again."""
    batch, channels, height, width = h.shape
    return h.reshape(batch, channels * height, width).tanh().reshape(batch, channels, height, width)


def _rows_before_channels(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    rows = h.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    return rows.tanh().reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def _rows_read_otherwise(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    rows = h.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    return rows.tanh().reshape(batch, height, channels, width).permute(0, 2, 1, 3)


def _unfolded(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    windows = F.unfold(h, 3, padding=1).view(batch, channels, 9, height * width)
    return windows.amax(2).view(batch, channels, height, width)


def _unfolded_otherwise(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    windows = F.unfold(h, 3, padding=1).view(batch, 9, channels, height * width)
    return windows.amax(1).view(batch, channels, height, width)


def _folded(h: Tensor) -> Tensor:
    return F.fold(F.unfold(h, 2, stride=2).tanh(), h.shape[2:], 2, stride=2)


def _windows(h: Tensor) -> Tensor:
    return h.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))


def _swapped(h: Tensor) -> Tensor:
    """A swap of rows and columns that is no view of places alone: channels ride along."""
    return h.transpose(1, 3).flip(1).transpose(1, 3)


CASES = [
    case("tokens read as a map", _raw_back),
    case("a map read as tokens", _raw_there),
    Case("few tokens read as a map", lambda: Mixed(_raw_back), small_maps),
    Case("a small map read as tokens", lambda: Mixed(_raw_there), small_maps),
    Case("a small map flattened and read otherwise", lambda: Mixed(_flat_and_mixed), small_maps),
    Case("a small map, channels times rows", lambda: Mixed(_rows_as_channels), small_maps),
    case("flattened and back", _flat_and_back),
    case("flattened and read otherwise", _flat_and_mixed),
    case("tokens and back", _tokens),
    case("pairs of tokens", _pairs_of_tokens, 32),
    case("channel shuffle", _shuffled),
    case("channel shuffle with samples", _shuffled_with_samples),
    case("patches", _patches),
    case("pairs of places", _pairs_of_rows),
    case("samples times channels", _samples_and_channels),
    case("space to depth by strides", _space_to_depth, 64),
    case("space to depth by views", _space_to_depth_by_views, 64),
    case("Haar wavelets", _haar, 64),
    case("halves", _halves),
    case("parts of a computed size", _split_by_size),
    case("channels times rows", _rows_as_channels),
    case("rows times channels", _rows_before_channels),
    case("rows read otherwise", _rows_read_otherwise),
    case("unfolded", _unfolded),
    case("unfolded, read otherwise", _unfolded_otherwise),
    case("folded", _folded),
    case("windows", _windows),
    case("flipped through channels", _swapped),
    case("pixel shuffle", lambda h: F.pixel_shuffle(h, 2), 4),
    case("pixel unshuffle", lambda h: F.pixel_unshuffle(h, 2), 64),
    case("channel shuffle of torch", lambda h: F.channel_shuffle(h, 4)),
]
