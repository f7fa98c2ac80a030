"""Sizes that forward computes with: heights and widths at other batches are other ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case

__all__ = ["CASES"]

SIDES = {2: 8, 3: 16, 1: 12}  # batch -> height and width


class Sized(nn.Module):
    """``a`` (3 -> 16 channels), what the user wrote between, and ``b`` (16 -> 4)."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)).relu())


def maps(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, SIDES[batch], SIDES[batch]),)


def case(name: str, between: Callable[[Tensor], Tensor]) -> Case:
    return Case(name, lambda: Sized(between), maps)


def _windows(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    h = h.view(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, channels)
    h = h - h.mean(1, keepdim=True)
    h = h.view(-1, height // 4, width // 4, 4, 4, channels).permute(0, 5, 1, 3, 2, 4)
    return h.reshape(batch, channels, height, width)


def _padded(h: Tensor) -> Tensor:
    height, width = h.shape[-2:]
    h = F.pad(h, (0, (5 - width % 5) % 5, 0, (5 - height % 5) % 5))
    return F.max_pool2d(h, 5)


def _made_with_a_number_like_the_batch(h: Tensor) -> Tensor:
    made = h.new_zeros((h.size(0), 1, h.size(2), 2))[..., :1]
    return h + made.expand(made.size(0), 16, made.size(2), h.size(3)) + torch.ones(h.size(0), 2, 1, 1)[:, :1]


def _upsampled(h: Tensor) -> Tensor:
    small = F.adaptive_avg_pool2d(h, 2)
    return h + F.interpolate(small, size=h.shape[2:], mode="bilinear", align_corners=False)


def _folded(h: Tensor) -> Tensor:
    return F.fold(F.unfold(h, 2, stride=2) * 2, (h.shape[2], h.shape[3]), 2, stride=2)


def _columns(h: Tensor) -> Tensor:
    height, width = h.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return h + (y * x)[None, None]


def _rounded(h: Tensor) -> Tensor:
    """Python's own int() of a size, which the recording asserts."""
    return F.interpolate(h, size=(int(h.shape[2] * 0.5), round(h.shape[3] / 2)))


def _spanned(h: Tensor) -> Tensor:
    span = torch.tensor(min(h.shape[3], 10))
    return h[..., h.shape[3] - span :] - h[..., : torch.tensor([h.shape[3]]).clamp(max=10)]


def _overlapping(h: Tensor) -> Tensor:
    (batch, channels, height, width), (s0, s1, s2, s3) = h.size(), h.stride()
    return h.as_strided([batch, channels, height // 2 - 1, width, 4], [s0, s1, s2 * 2, s3, s2]).mean(-1)


def _rows(h: Tensor) -> Tensor:
    batch, channels, *places = h.size()
    return h.reshape(batch, channels, math.prod(places)).softmax(-1).view(batch, channels, *places)


CASES = [
    case("windows", _windows),
    case("padding to a multiple", _padded),
    case("upsampling to a size", _upsampled),
    case("folding", _folded),
    case("places", _columns),
    case("rest of a shape", _rows),
    case("resampling by a factor", lambda h: F.interpolate(h, scale_factor=0.5)),
    case("resampling to half", lambda h: F.interpolate(h, size=(h.shape[2] // 2, h.shape[3] // 2))),
    case("a Fourier transform back to a shape", lambda h: torch.fft.irfft2(torch.fft.rfft2(h), s=h.shape[-2:])),
    case("to sizes in a tuple", lambda h: torch.fft.irfft2(torch.fft.rfft2(h), s=(h.shape[2], h.shape[3]))),
    case("pieces of computed sizes, joined", lambda h: torch.cat(torch.split(h, [h.shape[2] - 3, 3], 2)[::-1], 2)),
    case("pieces, stacked", lambda h: torch.stack(h.split(h.shape[2] // 2, 2)).mean(0)),
    Case("resampling to a rounded size", lambda: Sized(_rounded), maps, batches=(2,)),
    case("half, rounded up", lambda h: h[:, :, : math.ceil(h.shape[2] / 2)]),
    case("half of the places", lambda h: h[:, :, : h.shape[2] // 2, h.shape[3] // 2 :]),
    case("pooling to a part", lambda h: F.adaptive_max_pool2d(h, (h.shape[2] // 2, 3))),
    case("as many entries", lambda h: h / h[0, 0].numel()),
    case("mean by hand", lambda h: h - h.sum((2, 3), keepdim=True) / (h.shape[2] * h.shape[3])),
    case("scaled by a root", lambda h: h * h.shape[2] ** -0.5),
    case("scaled by a square root", lambda h: h / math.sqrt(h.shape[-1])),
    case("a number of a tensor of sizes", lambda h: h / torch.tensor(h.shape[2]).item()),
    case("a number of a range of sizes", lambda h: h / torch.arange(h.shape[2]).max().item()),
    case("a list of one", lambda h: h * torch.tensor(h.shape[2] - 2).float().rsqrt().tolist()),
    Case("Python's number of it", lambda: Sized(lambda h: h / int(torch.tensor(h.shape[2]))), maps, batches=(2,)),
    Case("a list of a range", lambda: Sized(lambda h: h / torch.arange(h.shape[2]).tolist()[-1]), maps, batches=(2,)),
    case("a branch on it", lambda h: h * 2 if torch.tensor(h.shape[2]) > 2 else h),
    case("slices by tensors of sizes", _spanned),
    case("a slice by a constant tensor", lambda h: h[..., : torch.tensor(5)]),
    case("narrowed by a tensor of sizes", lambda h: h.narrow(3, 0, torch.tensor(h.shape[3]) // 2)),
    Case(
        "a slice by values",
        lambda: Sized(lambda h: h[..., : (h.sum() > 0).long() + 2]),
        maps,
        refused="takes a number from the values of a tensor .*only sizes",
    ),
    Case("overlapping places", lambda: Sized(_overlapping), maps, kept="a stride over it is read"),
    case("a stride over places", lambda h: h / h.stride(1)),
    case("the larger side", lambda h: h * max(h.shape[2], h.shape[3]) / 10),
    case("zeros of a shape", lambda h: h + torch.zeros(h.shape[2], h.shape[3])),
    case("a mask of places", lambda h: h.masked_fill(torch.ones(h.shape[2:]).triu().bool(), 0.5)),
    case("a new tensor of sizes", lambda h: h * h.new_full((h.size(0), 1, h.size(2), 1), 0.5)),
    case("rolled by half", lambda h: h.roll((h.shape[2] // 2, h.shape[3] // 2), (2, 3))),
    case("parted by half", lambda h: torch.cat(h.split(h.shape[2] // 2, 2)[::-1], 2)),
    case("even places", lambda h: h[:, :, ::2, 1::2]),
    case("repeated places", lambda h: h.repeat_interleave(2, 2).repeat(1, 1, 1, 2)),
    case("made with a number like the batch", _made_with_a_number_like_the_batch),
]
