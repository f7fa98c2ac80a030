"""Mutual information of feature maps and labels from aura matrices (after Musat & Andonie, arXiv 2312.04926), and from plain
histograms, the estimate that it is meant to replace."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fxprune.criteria.aura_entropy import AuraCriterion
from fxprune.criteria.base import Reduction
from fxprune.criteria.entropy import counted, entropy
from fxprune.criteria.observing import Sums
from fxprune.statistics.maps import Maps

__all__ = ["AuraMI", "HistogramMI"]


class AuraMI(AuraCriterion):
    """``I(c; Y) = H(mean P) - sum_y p(y) H(mean P given y)`` in bits, P the normalised aura matrix of a channel's map.

    This is the mutual information of the pair (level here, level next door) and the label; every image weighs the same.
    It sees differences in texture that a histogram cannot. Reconstruction: that the spatial aura entropy takes the place of the
    plain one in the mutual information is published; this estimator is a choice made here.

    Finite samples bias it upwards. The bias is what one gets on average with shuffled labels; to second order that is
    ``(K - 1) / (2 (N - 1) ln 2) * sum_cells Var P / mean P`` for N images of K classes, and it is subtracted
    (``corrected=False`` leaves it). What is left below zero is noise and scores 0, like constant maps.

    Each channel is scored alone: of two that tell the same classes apart both score high, and both stay.

    A group that is seen in several blocks averages the ranks that a channel has there, as the values of one block may be many
    times those of another (``reduction="rank"``, a choice made here).

    Args:
        corrected: subtract the bias.
    """

    needs_labels = True
    default_reduction: Reduction = "rank"

    def __init__(self, *args: Any, corrected: bool = True, **options: Any) -> None:
        super().__init__(*args, **options)
        self.corrected = corrected

    @property
    def cells(self) -> int:
        """Of a pattern."""
        return self.levels**2

    def observe(self, maps: Maps) -> Sums:
        labels = maps.labels
        assert labels is not None
        joint, squares = [], []
        for part in self.in_parts(maps, self.cells):
            table = part.new_zeros(maps.classes, *part.shape[1:])
            joint.append(table.index_add_(0, labels, part).transpose(0, 1))
            squares.append(part.square().sum(0))
        count = torch.bincount(labels, minlength=maps.classes)
        return {"joint": torch.cat(joint), "squares": torch.cat(squares), "labels": count}

    def measure(self, sums: Sums) -> Tensor:
        return self.information(sums).clamp_min(0)

    def information(self, sums: Sums) -> Tensor:
        """The estimate ``[channels]``; less its bias it may be negative."""
        joint, count = sums["joint"], sums["labels"]  # [channels, classes, cells], [classes]
        images = count.sum()
        mean = joint.sum(1) / images
        information = entropy(mean) - (entropy(joint) * count / images).sum(1)
        if self.corrected and images > 1:
            variance = (sums["squares"] / images - mean.square()).clamp_min(0)
            spread = (variance / torch.where(mean > 0, mean, torch.ones_like(mean))).sum(1)
            information = information - ((count > 0).sum() - 1) / (2 * (images - 1) * math.log(2)) * spread
        return information


class HistogramMI(AuraMI):
    """As `AuraMI`, with the histogram of a map's levels in the place of its aura matrix."""

    @property
    def cells(self) -> int:
        return self.levels

    def patterns(self, quantised: Tensor) -> Tensor:
        counts = counted(quantised.flatten(2), self.levels)
        return counts / counts.sum(-1, keepdim=True)

    def in_parts(self, maps: Maps, cells: int) -> list[Tensor]:
        return [self.patterns(self.quantised(maps))]
