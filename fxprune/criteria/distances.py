"""Redundancy among the filters of a layer: distances between them, and to their geometric median."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.criteria.weights import WeightCriterion

__all__ = ["FPGM", "WHC", "Fermat", "geometric_median", "pairwise_distances"]


class FPGM(WeightCriterion):
    """``sum_j ||F_c - F_j||_2`` over the filters of a layer, flattened to ``[channels, n]``.

    Published: He et al., "Filter Pruning via Geometric Median for Deep Neural Networks Acceleration", CVPR 2019. The
    filters with the least sum are the nearest to the geometric median: the others can stand in for them. The paper takes
    the same share of every layer.
    """

    def score(self, weights: Tensor) -> Tensor:
        return pairwise_distances(weights.flatten(1)).sum(1)


class Fermat(WeightCriterion):
    """``||F_c - F*||_2``, with ``F*`` the point of least total distance to the filters of the layer.

    Published: one of the criteria compared by Huang et al., "Rethinking the Pruning Criteria for Convolutional Neural
    Network", NeurIPS 2021; the point is found by Weiszfeld's iteration, 200 rounds at most.
    """

    def score(self, weights: Tensor) -> Tensor:
        filters = weights.flatten(1).double()
        return (filters - geometric_median(filters)).norm(dim=1)


class WHC(WeightCriterion):
    """``||F_c|| * sum_{j != c} ||F_j|| (1 - |cos(F_c, F_j)|)``: large, and unlike the other large filters.

    Published: Chen et al., "WHC: Weighted Hybrid Criterion for Filter Pruning on Convolutional Neural Networks",
    ICASSP 2023. A filter of zeros scores 0. The term of ``j = c`` is zero by itself.
    """

    def score(self, weights: Tensor) -> Tensor:
        filters = weights.flatten(1).double()
        norms = filters.norm(dim=1)
        products = norms[:, None] * norms - (filters @ filters.T).abs()
        return products.fill_diagonal_(0).clamp_min(0).sum(1)


def pairwise_distances(points: Tensor) -> Tensor:
    """Euclidean distances ``[n, n]`` between the rows of ``[n, d]``, in float64.

    From products of rows: n^2 d multiplications in one matrix product. In float64 two equal rows may come out 1e-8 of
    their norm apart.
    """
    points = points.double()
    squares = points.square().sum(1)
    distances = (squares[:, None] + squares - 2 * (points @ points.T)).clamp_min_(0).sqrt_()
    return distances.fill_diagonal_(0)


def geometric_median(points: Tensor, rounds: int = 200, tolerance: float = 1e-12) -> Tensor:
    """The point ``[d]`` of least total distance to the rows of ``[n, d]`` (Weiszfeld, "Sur le point pour lequel la somme
    des distances de n points donnés est minimum", 1937).

    Starts at the mean. Where the iterate meets a data point, the step of Vardi and Zhang (2000) leaves it if it is not
    the answer.
    """
    here = points.mean(0)
    scale = (points - here).norm(dim=1).max()
    if scale == 0:
        return here
    for _ in range(rounds):
        distances = (points - here).norm(dim=1)
        apart = distances > scale * 1e-14
        weights = torch.where(apart, 1 / distances.clamp_min(scale * 1e-14), 0)
        pull = (weights[:, None] * (points - here)).sum(0)
        met = (~apart).sum()
        strength = pull.norm()
        if strength <= met:
            return here
        step = (1 - met / strength) * pull / weights.sum()
        here = here + step
        if step.norm() <= tolerance * scale:
            break
    return here
