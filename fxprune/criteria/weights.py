"""Criteria that read weights, each tensor by itself."""

from __future__ import annotations

from torch import Tensor

from fxprune.analysis.groups import Group, Member
from fxprune.criteria.base import Criterion, Tensors
from fxprune.labels.store import Role
from fxprune.statistics.weights import channel_weights

__all__ = ["WeightCriterion", "members_with"]


def members_with(group: Group, *roles: Role) -> list[Member]:
    """The members of a group that have one of these roles."""
    return [m for m in group.members if m.role in roles]


class WeightCriterion(Criterion):
    """Base of criteria that score each member on its own; a subclass defines `score`.

    The producers are asked (and the consumers, where ``consumers=True``); in a group that has none, all members are.
    """

    def score(self, weights: Tensor) -> Tensor:
        """Scores ``[channels]`` from the weights ``[channels, rows, K]`` of one member."""
        raise NotImplementedError

    def speaks(self, group: Group) -> list[Member]:
        """The members that are asked."""
        roles: tuple[Role, ...] = ("producer", "consumer") if self.consumers else ("producer",)
        return members_with(group, *roles) or list(group.members)

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        return self.settle([self.score(channel_weights(tensors[m.name], m)) for m in self.speaks(group)])
