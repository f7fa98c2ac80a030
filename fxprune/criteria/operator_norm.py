"""Filters along the directions that realise a layer's operator norm (published: Singh & Plumbley, "Efficient CNNs via
Passive Filter Pruning", arXiv 2304.02319, 2023; the form of `OperatorNorm` is a reconstruction, see there)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxprune.criteria.base import Normalization
from fxprune.criteria.weights import WeightCriterion

__all__ = ["OperatorNorm", "OperatorNormCompat"]


class OperatorNorm(WeightCriterion):
    """``sum_r <W[c, r] - mu_r, v_r>^2``: the energy of a filter along each row's operator-norm direction.

    For each input row ``r`` of the weights ``[channels, rows, K]``, the kernels are centred over the filters (``mu_r``),
    and ``v_r`` is the top right singular vector of what is left, ``[channels, K]``: the top eigenvector of its K x K Gram
    matrix. With K = 1 (1 x 1 convolutions, linear layers) this is the squared, centred l2 norm.

    Reconstruction: the published score (`OperatorNormCompat`) adds the projections before squaring, with signs taken from
    filter 0, so that it depends on the order of the filters and favours the first; the energy does neither.

    Args:
        weighted: multiply each row's energy by its squared operator norm.
    """

    def __init__(self, *args: Any, weighted: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.weighted = weighted

    def score(self, weights: Tensor) -> Tensor:
        projections, strength = _projections(weights)
        energy = projections.square()
        return (energy * strength if self.weighted else energy).sum(1)


class OperatorNormCompat(WeightCriterion):
    """The published score: ``s_c^2 / max s^2`` with ``s_c = sum_r <W[c, r] - mu_r, d_r>``.

    ``d_r = sign(u_r[0]) v_r``, the first row of the rank-one part ``u_r v_r^T`` scaled to length one. All terms of filter 0
    are therefore positive, while those of other filters have arbitrary relative signs: filter 0 nearly always
    ranks first, and the ranking depends on the order of the filters. Here for fidelity; prefer `OperatorNorm`.
    """

    default_normalization: Normalization = "max"

    def score(self, weights: Tensor) -> Tensor:
        projections, _ = _projections(weights)
        return (projections * projections[:1].sign()).sum(1).square()


def _projections(weights: Tensor) -> tuple[Tensor, Tensor]:
    """``<W[c, r] - mu_r, v_r>`` as ``[channels, rows]``, and the squared operator norms ``[rows]``; float64."""
    centred = weights.double() - weights.double().mean(0)
    if centred.shape[2] == 1:
        projections = centred[:, :, 0]
        return projections, projections.square().sum(0)
    by_row = centred.movedim(1, 0)  # [rows, channels, K]
    values, vectors = torch.linalg.eigh(by_row.mT @ by_row)
    return (by_row @ vectors[:, :, -1:])[:, :, 0].T, values[:, -1].clamp_min(0)
