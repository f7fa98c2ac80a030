"""Aura matrices: how often each level of a map lies next to each other level (Elfadel & Picard, "Gibbs random fields,
co-occurrences, and texture modeling", IEEE TPAMI 16(1), 1994)."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from fxprune.criteria.entropy import counted
from fxprune.errors import InputError

__all__ = ["aura_matrices", "neighbourhood", "without_pairs"]

_log = logging.getLogger("fxprune")


def neighbourhood(neighbours: int, radius: int) -> list[tuple[int, int]]:
    """Half of the offsets (rows, columns) of a neighbourhood: its other half are their negatives.

    ``neighbours=4``: up to `radius` steps along the axes and diagonally in between (a diamond); 8: a square.
    """
    if neighbours not in (4, 8) or radius < 1:
        raise InputError(f"a neighbourhood has 4 or 8 neighbours and a radius of at least 1, not {neighbours} and {radius}")
    steps = range(-radius, radius + 1)
    offsets = [(y, x) for y in steps for x in steps if (y, x) > (0, 0)]
    return [(y, x) for y, x in offsets if neighbours == 8 or abs(y) + abs(x) <= radius]


def aura_matrices(levels: Tensor, count: int, offsets: list[tuple[int, int]]) -> Tensor:
    """``P[g, h]``: share of pairs of neighbours with levels g and h, for each image and channel.

    ``m(S_g, S_h; N) = sum over s in S_g of |N_s and S_h|``, over its sum; no wrap-around at the borders.

    Args:
        levels: int64 ``[images, channels, copies, height, width]`` in ``[0, count)``; copies add up.
        offsets: from `neighbourhood`.

    Returns:
        float64 ``[images, channels, count * count]``, symmetric, summing to 1. Maps without any pair (1 x 1) get the
        histogram of their levels on the diagonal.
    """
    height, width = levels.shape[-2:]
    pairs = []
    for y, x in offsets:
        if abs(x) >= width or y >= height:
            continue
        here = levels[..., : height - y, max(-x, 0) : width - max(x, 0)]
        there = levels[..., y:, max(x, 0) : width + min(x, 0)]
        pairs.append((here * count + there).flatten(2))
    if not pairs:
        pairs = [levels.flatten(2) * (count + 1)]
    matrix = counted(torch.cat(pairs, -1), count * count).unflatten(-1, (count, count))
    matrix = (matrix + matrix.mT).flatten(-2)
    return matrix / matrix.sum(-1, keepdim=True)


def without_pairs(levels: Tensor, node: str, told: set[str]) -> None:
    """Log, once a node, that its maps have no neighbours."""
    if levels.shape[-2:] == (1, 1) and node not in told:
        told.add(node)
        _log.warning("maps at node %s are 1 x 1 and have no neighbours: their histograms are used", node)
