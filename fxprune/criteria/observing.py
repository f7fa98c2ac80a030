"""Criteria that observe the model at work: what they add up on the way, and what they make of the sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group, Member
from fxprune.criteria.base import Criterion, Tensors
from fxprune.criteria.magnitude import L2
from fxprune.criteria.weights import members_with
from fxprune.errors import InputError
from fxprune.labels.store import Role
from fxprune.statistics.contract import ActivationObserver, GradientObserver, Key, Observer, Sums
from fxprune.statistics.spot import Hook

__all__ = ["ActivationCriterion", "GradientCriterion", "Key", "ObservingCriterion", "Sums"]


class ObservingCriterion(Criterion, Observer):
    """What both kinds share: the sums that they receive. See `fxprune.statistics.contract` for what they offer."""

    needs_data = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sums: dict[Key, Sums] = {}
        self._groups: set[str] = set()

    def receive(self, sums: Mapping[Key, Sums], analysis: Analysis) -> None:
        self._sums = {key: dict(values) for key, values in sums.items()}
        self._groups = {g.id for g in analysis.free}

    def has_seen(self, analysis: Analysis) -> bool:
        """Whether it can score the groups of an analysis."""
        return bool(self._groups) and all(g.id in self._groups for g in analysis.free)

    def _check(self, group: Group) -> None:
        if group.id not in self._groups:
            name = type(self).__name__
            raise InputError(f"criterion {name} has not observed group {group.id!r}: call criteria.prepare with data first")


class ActivationCriterion(ObservingCriterion, ActivationObserver):
    """Base of criteria that look at activations. A subclass defines `observe` (what one batch at one spot adds, see
    `fxprune.statistics.contract.ActivationObserver`) and `measure`.

    A group is seen at several spots if several blocks share its channels; `reduction` makes one score of theirs. A group
    without a spot (channels that no layer reads, for a criterion that looks at consumers) scores its l2 norms.

    Args:
        hook: where to look: ``"activation"``, ``"norm"``, ``"sum"`` or ``"consumer"``; see `fxprune.statistics.spots`.
    """

    default_hook: Hook = "activation"

    def __init__(self, *args: Any, hook: Hook | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        known = ("activation", "norm", "sum", "consumer")
        if hook is not None and hook not in known:
            raise InputError(f"hook must be one of {', '.join(known)}, not {hook!r}")
        if hook is not None and (hook == "consumer") != (self.default_hook == "consumer"):
            raise InputError(f"criterion {type(self).__name__} cannot look at hook {hook!r}")
        self.hook: Hook = hook or self.default_hook

    def measure(self, sums: Sums) -> Tensor:
        """Scores ``[channels]`` of one spot, from the sums over all batches."""
        raise NotImplementedError

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        self._check(group)
        scores = [self.measure(s) for (name, _), s in sorted(self._sums.items()) if name == group.id]
        if not scores:
            return L2(self.reduction, self.normalization)(group, tensors)
        return self.settle(scores)


class GradientCriterion(ObservingCriterion, GradientObserver):
    """Base of criteria that score entries of weights by gradients; a channel's entries in one member add up.

    A subclass defines `observe` (what one batch adds, see `fxprune.statistics.contract.GradientObserver`) and `measure`.
    Producers speak (and consumers, if asked for); in a group without any, all members.
    """

    def measure(self, total: Tensor, batches: float, images: float) -> Tensor:
        """Scores ``[channels]`` of one member from the sums over all batches."""
        raise NotImplementedError

    def speaks(self, group: Group) -> list[Member]:
        roles: tuple[Role, ...] = ("producer", "consumer") if self.consumers else ("producer",)
        return members_with(group, *roles) or list(group.members)

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        self._check(group)
        scores = []
        for number in range(len(self.speaks(group))):
            sums = self._sums.get((group.id, number))
            if sums is not None:  # of a buffer: no gradient reaches it
                scores.append(self.measure(sums["channels"], float(sums["batches"]), float(sums["images"])))
        if not scores:
            return L2(self.reduction, self.normalization)(group, tensors)
        return self.settle(scores)
