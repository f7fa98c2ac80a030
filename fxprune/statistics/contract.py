"""What observers offer to the pass over the data: `fxprune.criteria.observing` builds criteria on it.

All that an observer remembers of a batch is a dict of tensors that add up over batches. After the last one it receives
the sums.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group, Member
from fxprune.statistics.gradients import Gradients
from fxprune.statistics.maps import Maps
from fxprune.statistics.products import Products
from fxprune.statistics.spot import Hook

__all__ = ["ActivationObserver", "GradientObserver", "Key", "Observer", "Sums"]

Key = tuple[str, int]  # (group id, number among its spots, or among its members that speak)
Sums = dict[str, Tensor]


class Observer:
    """What both kinds share.

    Attributes:
        needs_analysis: it looks at the whole network before the first batch.
        needs_labels: class labels are wanted.
    """

    needs_analysis = False
    needs_labels = False

    def prepare(self, analysis: Analysis, tensors: Mapping[str, Tensor]) -> None:
        """Look at the whole network, where the observer `needs_analysis`."""

    def receive(self, sums: Mapping[Key, Sums], analysis: Analysis) -> None:
        """Take the sums over all data; replaces what was received before."""
        raise NotImplementedError


class ActivationObserver(Observer):
    """Looks at the activations of one batch at one spot.

    Attributes:
        hook: at which spots; see `fxprune.statistics.spots`.
        needs_range: the range of each channel's values is wanted; see `ranged`.
        attends: it also looks where queries meet keys; see `attend`.
    """

    hook: Hook = "activation"
    needs_range = False
    attends = False

    def ranged(self, maps: Maps) -> Tensor:
        """The values ``[channels, n]`` whose range is wanted: by default all activations."""
        return maps.values.transpose(0, 1).flatten(1)

    def observe(self, maps: Maps) -> Sums:
        """What one batch at one spot adds: tensors whose shapes do not depend on the batch."""
        raise NotImplementedError

    def attend(self, products: Products) -> Sums:
        """The same where queries meet keys; the numbers of these places go on from those of the group's spots."""
        raise NotImplementedError


class GradientObserver(Observer):
    """Looks at the gradients of one batch's loss for the weights that have a say about some group.

    What is remembered of each of these members: ``channels [group.size]``, the number of ``batches`` and of ``images``.
    """

    def speaks(self, group: Group) -> list[Member]:
        """The members of a group whose gradients are wanted."""
        raise NotImplementedError

    def observe(self, gradients: Gradients) -> dict[str, Tensor]:
        """What one batch adds: ``{tensor name: contribution of each entry}``."""
        raise NotImplementedError

    def fold(self, contribution: Tensor, axis: int) -> Tensor:
        """Sum ``[size of axis]`` of each entry's contribution."""
        return contribution.double().movedim(axis, 0).flatten(1).sum(1) if contribution.dim() > 1 else contribution.double()

    def of_channels(self, contribution: Tensor) -> Tensor:
        """What one batch adds ``[channels]``, from the sums over each channel's entries in one member: just these."""
        return contribution
