"""What a criterion is given, and how the scores of a group's members become one score a channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from fxprune.groups import Group, Member, Role

__all__ = ["Criterion", "Normalization", "Reduction", "Tensors", "normalize"]

Reduction = Literal["mean", "sum", "max", "first"]
Normalization = Literal["none", "mean", "max", "l2", "gaussian"]
Tensors = Mapping[str, Tensor]  # parameters and buffers by name, with the user's weights


class Criterion:
    """Base of criteria that score each entry of each member's axis; higher is kept.

    A subclass defines `entries`; it may narrow `roles` (which members speak) and `settle` (from sums to scores).

    Args:
        reduction: how scores of a channel's members become one.
        normalization: how the scores of one group are made comparable with others' for a global ranking.
        consumers: also ask the next layers' input slices.
        seed: for criteria that draw random numbers.
    """

    roles: tuple[Role, ...] = ("producer",)
    additive = True  # entries of one channel in one member add up before `settle`

    def __init__(
        self,
        reduction: Reduction = "mean",
        normalization: Normalization = "mean",
        consumers: bool = False,
        seed: int = 0,
    ) -> None:
        self.reduction, self.normalization, self.consumers, self.seed = reduction, normalization, consumers, seed
        self._cache: dict[tuple[str, int], Tensor] = {}
        self._cached_for: int | None = None

    def entries(self, tensor: Tensor, member: Member) -> Tensor:
        """Scores ``[size of member.axis]`` of the entries along one axis of one tensor."""
        raise NotImplementedError

    def settle(self, score: Tensor) -> Tensor:
        """From the sum over a channel's entries to its score (a root, for norms)."""
        return score

    def speaks(self, group: Group) -> list[Member]:
        """The members that are asked; where none has a wanted role, all are."""
        roles = (*self.roles, "consumer") if self.consumers else self.roles
        chosen = [m for m in group.members if m.role in roles]
        return chosen or list(group.members)

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        """Scores ``[group.size]``, float32 on the CPU."""
        if self._cached_for != id(tensors):
            self._cache, self._cached_for = {}, id(tensors)
        scores = []
        for member in self.speaks(group):
            key = (member.name, member.axis)
            if key not in self._cache:
                tensor = tensors[member.name].detach()
                self._cache[key] = self.entries(tensor, member).float().cpu()
            taken = self._cache[key][torch.from_numpy(member.indices)]
            scores.append(self.settle(taken.sum(1)) if self.additive else taken.mean(1))
        stacked = torch.stack(scores)
        if self.reduction == "first":
            score = stacked[0]
        elif self.reduction == "max":
            score = stacked.amax(0)
        else:
            score = stacked.sum(0) if self.reduction == "sum" else stacked.mean(0)
        return normalize(score, self.normalization)


def normalize(score: Tensor, how: Normalization) -> Tensor:
    """Make the scores of one group comparable with those of others; the order inside the group stays."""
    tiny = torch.finfo(score.dtype).tiny
    if how == "mean":
        return score / score.mean().abs().clamp_min(tiny)
    if how == "max":
        return score / score.abs().max().clamp_min(tiny)
    if how == "l2":
        return score / score.norm().clamp_min(tiny)
    if how == "gaussian":
        return (score - score.mean()) / score.std(correction=0).clamp_min(tiny)
    return score


def flatten_from(tensor: Tensor, axis: int) -> Tensor:
    """``[size of axis, everything else]``."""
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
