"""Matrix-based mutual information of feature maps and labels (published: Sarvani et al., "HRel: Filter Pruning based on High
Relevance between Activation Maps and Class Labels", Neural Networks 147, 2022)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fxprune.criteria.observing import ActivationCriterion, Sums
from fxprune.errors import InputError
from fxprune.statistics.maps import Maps

__all__ = ["HRel"]

_LABEL_WIDTH = 0.1
_ENTRIES = 1 << 23  # of the kernel matrices that are held at once


class HRel(ActivationCriterion):
    """``I(T; Y) = H(T) + H(Y) - H(T, Y)`` in bits, averaged over batches; T a channel's maps, Y the labels of a batch.

    ``H = -sum l log2 l`` over the eigenvalues of a Gaussian kernel matrix ``exp(-d^2 / width^2)`` of the batch's images,
    scaled to trace 1; the joint entropy is that of the entrywise product of both matrices. The width for one-hot labels is
    0.1. That of a layer, for each of its channels, is the one of a grid whose kernel of the layer's whole output (all channels
    as one vector) aligns best with the labels': from a tenth to ten times the mean distance between images there, in equal
    steps.

    The authors' code (github.com/sarvanichinthapalli/HRel) begins at 0.3 whatever the scale of the activations, smooths the
    width over epochs (here each batch has its own, so that shares of the data can be merged), and removes a share of each
    layer. Scores depend on the batch size (100 in the paper): about ``channels * batch^3`` operations a batch.

    Args:
        widths: size of the grid.
    """

    needs_labels = True

    def __init__(self, *args: Any, widths: int = 300, **options: Any) -> None:
        super().__init__(*args, **options)
        if widths < 1:
            raise InputError(f"widths must be at least 1, not {widths}")
        self.widths = widths

    def observe(self, maps: Maps) -> Sums:
        assert maps.labels is not None
        targets = one_hot(maps.labels, maps.classes).to(maps.values)
        label_kernel = _kernel(_squared_distances(targets[None]), _LABEL_WIDTH**2)
        points = maps.values.transpose(0, 1).flatten(2)
        width = self._width(points, label_kernel)
        entropy_of_labels = _entropy(label_kernel)
        parts = []
        for part in points.split(max(1, _ENTRIES // len(maps.values) ** 2)):
            kernel = _kernel(_squared_distances(part), width)
            parts.append(_entropy(kernel) + entropy_of_labels - _entropy(kernel * label_kernel))
        return {"information": torch.cat(parts), "batches": torch.ones((), dtype=torch.float64)}

    def measure(self, sums: Sums) -> Tensor:
        return sums["information"] / sums["batches"]

    def _width(self, points: Tensor, label_kernel: Tensor) -> float:
        """The squared width: the best of the grid on the distances between the outputs of all channels together."""
        distances = torch.stack([_squared_distances(p).sum(0) for p in points.split(64)]).sum(0)
        mean = float(distances.sqrt().mean()) or 1.0  # of equal images any width will do
        grid = torch.linspace(mean / 10, mean * 10, self.widths, dtype=torch.float64, device=distances.device).square()
        parts = grid[:, None, None].split(max(1, _ENTRIES // distances.numel()))
        alignments = torch.cat([_alignments(_kernel(distances, part), label_kernel[0]) for part in parts])
        return float(grid[alignments.argmax()])


def _squared_distances(points: Tensor) -> Tensor:
    """``[channels, n, d]`` -> ``[channels, n, n]`` in float64."""
    points = points.double()
    squares = points.square().sum(-1)
    distances = squares[:, :, None] + squares[:, None, :] - 2 * points @ points.mT
    distances.diagonal(dim1=-2, dim2=-1).zero_()
    return distances.clamp_min_(0)


def _kernel(squared_distances: Tensor, squared_width: float | Tensor) -> Tensor:
    return (-squared_distances / squared_width).exp()


def _alignments(kernels: Tensor, other: Tensor) -> Tensor:
    """Cosines of the angles between matrices ``[n, ...]`` and another one."""
    return (kernels * other).sum((-1, -2)) / (kernels.flatten(1).norm(dim=1) * other.norm())


def _entropy(kernel: Tensor) -> Tensor:
    """Bits ``[channels]``; the diagonal of a Gaussian kernel is 1, so its trace is its size."""
    values = torch.linalg.eigvalsh(kernel / kernel.shape[-1]).clamp_min(0)
    return -torch.special.xlogy(values, values).sum(-1) / math.log(2)
