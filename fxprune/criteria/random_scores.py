"""Random scores: the baseline that every criterion must beat (published as such: Mittal et al., "Recovering from Random
Pruning: On the Plasticity of Deep Convolutional Neural Networks", arXiv 1801.10447, 2018)."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from fxprune.analysis.groups import Group
from fxprune.criteria.base import Criterion, Normalization, Tensors

__all__ = ["Random"]


class Random(Criterion):
    """Uniform scores, drawn from the seed and the group's id: the same plan on every run and device."""

    default_normalization: Normalization = "none"

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + zlib.crc32(group.id.encode())) % (1 << 63))
        return torch.rand(group.size, generator=generator, dtype=torch.float64)
