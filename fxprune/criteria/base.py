"""What a criterion is, and how the scores of a group's members become one score a channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.errors import InputError, nearest

__all__ = ["Criterion", "Normalization", "Reduction", "Tensors", "normalize", "reduce"]

Reduction = Literal["mean", "sum", "max", "first"]
Normalization = Literal["none", "mean", "max", "l2", "gaussian"]
Tensors = Mapping[str, Tensor]  # parameters and buffers by name, with the user's weights


class Criterion:
    """Scores the channels of a group; the highest are kept.

    Three things are the same for all criteria, and independent of each other: how the scores that a channel gets in
    several places (the layers that produce it, the spots where it is observed) become one, how the scores of a group are
    scaled for a ranking over all groups, and whether the slices of the next layers count.

    Args:
        reduction: ``"mean"``, ``"sum"``, ``"max"`` over places, or ``"first"``: the first in the order of the graph.
        normalization: ``"none"``, or divide a group's scores by their ``"mean"``, ``"max"`` or ``"l2"`` norm, or
            standardise them (``"gaussian"``). The order inside a group never changes. None: what suits the criterion.
        consumers: count the next layers' input slices too (criteria that read weights).
        seed: for criteria that draw random numbers.

    Attributes:
        needs_data: the criterion observes the model on data before it can score (`fxprune.criteria.prepare`).
        needs_analysis: it looks at the whole network before it can score.
    """

    needs_data = False
    needs_analysis = False
    default_normalization: Normalization = "mean"

    def __init__(
        self,
        reduction: Reduction = "mean",
        normalization: Normalization | None = None,
        consumers: bool = False,
        seed: int = 0,
    ) -> None:
        self.reduction = cast(Reduction, _one_of("reduction", reduction, get_args(Reduction)))
        normalization = self.default_normalization if normalization is None else normalization
        self.normalization = cast(Normalization, _one_of("normalization", normalization, get_args(Normalization)))
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


def _one_of(argument: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise InputError(f"{argument} must be one of {', '.join(known)}, not {value!r}{nearest(str(value), known)}")
    return value
