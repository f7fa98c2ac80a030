"""A channel's slice of a tensor, as a small stack of kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.analysis.groups import Member

__all__ = ["channel_weights"]


def channel_weights(tensor: Tensor, member: Member) -> Tensor:
    """What each channel owns of one tensor: ``[channels, rows, K]``, in float32 or float64.

    ``K`` runs over the kernel (1 for linear layers), ``rows`` over the other channel axis and over the entries that one
    channel occupies along its own (49 for a flattened 7 x 7 map)::

        conv2d     [out, in, kh, kw]           axis 0 -> [out, in, kh * kw]      axis 1 -> [in, out, kh * kw]
        depthwise  [out, 1, kh, kw]            axis 0 -> [out, 1, kh * kw]
        transposed [in, out / groups, kh, kw]  axis 1 -> [out, in, kh * kw]
        linear     [out, in]                   axis 1 -> [in / m, m * out, 1]
        vector     [n]                         axis 0 -> [n, 1, 1]
    """
    tensor = tensor.detach()
    tensor = tensor if tensor.dtype is torch.float64 else tensor.float()
    moved = tensor.movedim(member.axis, 0)
    indices = torch.from_numpy(member.indices).to(tensor.device)
    taken = moved if _whole(member, len(moved)) else moved[indices.ravel()]
    rows = moved.shape[1] if moved.dim() > 1 else 1
    return taken.reshape(*indices.shape, rows, -1).flatten(1, 2)


def _whole(member: Member, size: int) -> bool:
    """Whether the indices are ``0 ... size - 1``: then nothing has to be copied."""
    flat = member.indices.ravel()
    return len(flat) == size and bool((flat[1:] > flat[:-1]).all())
