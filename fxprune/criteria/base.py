"""What a criterion is, and how the scores of a group's members become one score a channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.options import Normalization, one_of

__all__ = ["Criterion", "Normalization", "Reduction", "Tensors", "normalize", "reduce"]

Reduction = Literal["mean", "sum", "max", "first", "rank"]
Tensors = Mapping[str, Tensor]  # parameters and buffers by name, with the user's weights


class Criterion:
    """Scores the channels of a group; the highest are kept.

    Three things are the same for all criteria, and independent of each other: how the scores that a channel gets in
    several places (the layers that produce it, the spots where it is observed) become one, how the scores of a group are
    scaled for a ranking over all groups, and whether the slices of the next layers count.

    Args:
        reduction: ``"mean"``, ``"sum"``, ``"max"`` over places; ``"first"``: the first in the order of the graph; or
            ``"rank"``: the mean over places of the channel's rank there, so that none of them decides by the size of its
            scores. None: what suits the criterion, which is the mean where it does not say otherwise.
        normalization: divide a group's scores by their ``"max"``, ``"mean"`` or ``"l2"`` norm, standardise them
            (``"gaussian"``), or ``"none"``. The order inside a group never changes. None: what suits the criterion, which
            is the maximum where it does not say otherwise.
        consumers: count the next layers' input slices too (criteria that read weights).
        seed: for criteria that draw random numbers.

    Attributes:
        needs_data: the criterion observes the model on data before it can score (`fxprune.criteria.prepare`).
        needs_analysis: it looks at the whole network before it can score.
        notes: what to know of its scores, in sentences of the report.
    """

    needs_data = False
    needs_analysis = False
    notes: Sequence[str] = ()
    default_reduction: Reduction = "mean"
    default_normalization: Normalization = "max"

    def __init__(
        self,
        reduction: Reduction | None = None,
        normalization: Normalization | None = None,
        consumers: bool = False,
        seed: int = 0,
    ) -> None:
        reduction = self.default_reduction if reduction is None else reduction
        self.reduction = cast(Reduction, one_of("reduction", reduction, get_args(Reduction)))
        normalization = self.default_normalization if normalization is None else normalization
        self.normalization = cast(Normalization, one_of("normalization", normalization, get_args(Normalization)))
        self.consumers, self.seed = bool(consumers), seed

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        """Scores ``[group.size]``, float64 on the CPU."""
        raise NotImplementedError

    def prepare(self, analysis: Analysis, tensors: Tensors) -> None:
        """Look at the whole network, where the criterion `needs_analysis`."""

    def settle(self, scores: Sequence[Tensor]) -> Tensor:
        """From one score tensor ``[channels]`` a place to the group's scores ``[channels]``."""
        stacked = torch.stack([s.detach().double().cpu() for s in scores])
        return normalize(reduce(stacked, self.reduction), self.normalization)


def reduce(scores: Tensor, how: Reduction) -> Tensor:
    """``[places, channels]`` -> ``[channels]``."""
    if how == "first":
        return scores[0]
    if how == "rank":
        return torch.stack([_ranks(place) for place in scores]).mean(0)
    if how == "max":
        return scores.amax(0)
    return scores.sum(0) if how == "sum" else scores.mean(0)


def normalize(score: Tensor, how: Normalization) -> Tensor:
    """Make the scores ``[channels]`` of one group comparable with those of others; their order stays.

    A group whose scale is zero (all scores 0, or all equal for ``"gaussian"``) scores 0.
    """
    if how == "none":
        return score
    if how == "gaussian":
        score = score - score.mean()
        scale = score.square().mean().sqrt()
    elif how == "l2":
        scale = score.norm()
    else:
        scale = score.mean().abs() if how == "mean" else score.abs().max()
    return score / scale if scale > 0 else torch.zeros_like(score)


def _ranks(scores: Tensor) -> Tensor:
    """Ranks ``[channels]`` over their number, from ``1 / channels`` to 1; equal scores share the mean of theirs."""
    ordered, _ = scores.sort()
    below, upto = (torch.searchsorted(ordered, scores, right=right) for right in (False, True))
    return (below + upto + 1).to(scores.dtype) / (2 * len(scores))
