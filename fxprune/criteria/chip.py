"""Channel independence (published: Sui et al., "CHIP: CHannel Independence-based Pruning for Compact Neural Networks",
NeurIPS 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.criteria.observing import ActivationCriterion, Sums
from fxprune.statistics.maps import Maps

__all__ = ["CHIP"]

_ENTRIES = 1 << 22  # of the Gram matrices that are decomposed at once


class CHIP(ActivationCriterion):
    """``||A||_* - ||A with row c zeroed||_*``, A the maps of one image as ``[channels, positions]``; mean over images.

    What is lost of the nuclear norm with a channel is what the others do not already span. Singular values are roots of
    the eigenvalues of the smaller Gram matrix, in float64; zeroing a row takes one rank-one term (or a row and a column)
    from it. Costs ``channels`` decompositions of a ``min(channels, positions)`` matrix for each image: the dearest of
    the criteria on wide layers with large maps.
    """

    def observe(self, maps: Maps) -> Sums:
        rows = maps.values.flatten(2).double()
        return {"lost": torch.stack([_lost(image) for image in rows]).sum(0), "images": maps.images}

    def measure(self, sums: Sums) -> Tensor:
        return sums["lost"] / sums["images"]


def _lost(rows: Tensor) -> Tensor:
    """``[channels]`` from ``[channels, positions]``."""
    channels, positions = rows.shape
    size = min(channels, positions)
    gram = rows.T @ rows if positions < channels else rows @ rows.T
    norms = []
    for part in torch.arange(channels, device=rows.device).split(max(1, _ENTRIES // size**2)):
        if positions < channels:
            without = gram - rows[part, :, None] * rows[part, None, :]
        else:
            keep = torch.ones(len(part), channels, dtype=rows.dtype, device=rows.device)
            keep[torch.arange(len(part), device=rows.device), part] = 0
            without = gram * keep[:, :, None] * keep[:, None, :]
        norms.append(_nuclear(without))
    return _nuclear(gram) - torch.cat(norms)


def _nuclear(gram: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum(-1)
