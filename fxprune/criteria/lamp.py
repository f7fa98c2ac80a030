"""Layer-adaptive magnitude (published: Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxprune.criteria.base import Normalization, normalize, reduce
from fxprune.criteria.weights import WeightCriterion

__all__ = ["LAMP"]


class LAMP(WeightCriterion):
    """``s_c / sum of all s_j >= s_c``, with ``s_c`` the squared l2 norm of a channel.

    The paper scores single weights; here channels take their place, after the reduction over members. The largest
    channel scores 1 in every group (if no other equals it), so the scores of groups compare as they are: no
    normalisation unless asked for. Equal channels share one score.
    """

    default_normalization: Normalization = "none"

    def score(self, weights: Tensor) -> Tensor:
        return weights.square().sum((1, 2))

    def settle(self, scores: Sequence[Tensor]) -> Tensor:
        squares = reduce(torch.stack([s.double().cpu() for s in scores]), self.reduction)
        ordered, _ = squares.sort()
        total = ordered.flip(0).cumsum(0).flip(0)  # at k: the sum of all from the k-th smallest on
        above = total[torch.searchsorted(ordered, squares)]
        return normalize(squares / above.clamp_min(torch.finfo(above.dtype).tiny), self.normalization)
