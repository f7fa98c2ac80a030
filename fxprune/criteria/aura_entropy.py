"""Spatial aura entropy of feature maps (after Musat & Andonie, arXiv 2312.04926)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxprune.criteria.aura import aura_matrices, neighbourhood, without_pairs
from fxprune.criteria.entropy import entropy, levels
from fxprune.criteria.observing import ActivationCriterion, Sums
from fxprune.errors import InputError
from fxprune.statistics.maps import Maps

__all__ = ["AuraCriterion", "AuraEntropy"]

_ENTRIES = 1 << 23  # of the matrices that are held at once


class AuraCriterion(ActivationCriterion):
    """What criteria on quantised maps share.

    Args:
        levels: Q; each channel's range on the calibration images is cut into so many equal parts.
        neighbours: 4 or 8.
        radius: of the neighbourhood.
    """

    needs_range = True

    def __init__(self, *args: Any, levels: int = 8, neighbours: int = 4, radius: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        if levels < 2:
            raise InputError(f"levels must be at least 2, not {levels}")
        self.levels, self.offsets = levels, neighbourhood(neighbours, radius)
        self._told: set[str] = set()

    def quantised(self, maps: Maps) -> Tensor:
        """Levels, in the shape of ``maps.values``."""
        assert maps.low is not None and maps.high is not None
        shape = (-1, 1, 1, 1)
        return levels(maps.values, maps.low.view(shape), maps.high.view(shape), self.levels)

    def patterns(self, quantised: Tensor) -> Tensor:
        """Distribution ``[images, channels, cells]`` of what is counted in each map: its aura matrix."""
        return aura_matrices(quantised, self.levels, self.offsets)

    def in_parts(self, maps: Maps, cells: int) -> list[Tensor]:
        """`patterns` of all channels, some at a time."""
        found = self.quantised(maps)
        without_pairs(found, maps.spot.source, self._told)
        size = max(1, _ENTRIES // (len(found) * cells * found.shape[2]))
        return [self.patterns(part) for part in found.split(size, dim=1)]


class AuraEntropy(AuraCriterion):
    """Mean over images of ``H_SA = -sum P[g, h] log2 P[g, h]`` in bits, P the normalised aura matrix of a channel's map.

    Heterogeneous maps stay, flat ones go; a constant map has entropy 0, the most is ``2 log2 Q``. Reconstruction: the
    spatial aura entropy is published; number of levels, neighbourhood and range are choices made here.
    """

    def observe(self, maps: Maps) -> Sums:
        parts = [entropy(p).sum(0) for p in self.in_parts(maps, self.levels**2)]
        return {"entropy": torch.cat(parts), "images": maps.images}

    def measure(self, sums: Sums) -> Tensor:
        return sums["entropy"] / sums["images"]
