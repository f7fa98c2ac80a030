"""What a policy is, and the limits that all of them keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.errors import InputError, PruneError, said, shown
from fxprune.options import PruneOptions
from fxprune.planning.policies.patterns import check_patterns, number_for, pattern_for

__all__ = ["Policy", "Scores", "chosen", "share_of"]

_MOST = 0.95  # of a group that no pattern of `max_ratio` matches
Scores = Mapping[str, np.ndarray]  # group id -> one score a channel; the highest are kept


@dataclass(frozen=True)
class Policy:
    """Chooses channels by their scores, and by what they cost (``analysis.cut(gone)`` says both MACs and parameters).

    Attributes:
        options: `ratio` or `budgets`, `max_ratio` (no group loses more), `round_to` (what a group keeps is a multiple), ...
    """

    options: PruneOptions

    def check(self, analysis: Analysis) -> None:
        """
        Raises:
            InputError: a number is given for groups that are not there.
        """
        for name in ("ratio", "max_ratio", "round_to", "min_width"):
            check_patterns(analysis.full.free, name, getattr(self.options, name))

    def choose(self, analysis: Analysis, scores: Scores) -> dict[str, np.ndarray]:
        """``{group id: sorted channel numbers}`` that go, for the groups of ``analysis.free`` that lose any."""
        raise NotImplementedError

    def most(self, group: Group) -> int:
        """The most channels that a group may lose: never all."""
        share = 1 - number_for(group, self.options.max_ratio, _MOST)
        least = max(number_for(group, self.options.min_width, 1), math.ceil(group.size * share - 1e-9))
        return max(0, group.size - least)

    def lowest(self, group: Group, scores: np.ndarray, count: int) -> np.ndarray:
        """The `count` channels of the lowest scores, within the limits: sorted channel numbers, maybe none."""
        return np.sort(np.argsort(scores, kind="stable")[: self.within(group, count)])

    def within(self, group: Group, count: int) -> int:
        """How many channels go within the limits, where `count` should."""
        most = self.most(group)
        count = self._rounded(group, min(count, most))
        if count > most:  # the nearest multiple is less than what has to stay
            count = self._rounded(group, max(0, count - self._step(group)))
        return count

    def levels(self, group: Group) -> np.ndarray:
        """What a group may keep, from the least: multiples of `round_to`, and all of its channels.

        Beside budgets, a ratio by name settles what its groups keep.
        """
        ratio = self.options.ratio
        if isinstance(ratio, Mapping) and self.options.budgets and (pattern := pattern_for(group, ratio)) is not None:
            return np.array([group.size - self.within(group, share_of(group.size, ratio[pattern]))])
        step = self._step(group)
        least = -(-(group.size - self.most(group)) // step) * step
        return np.array([*range(least, group.size, step), group.size])

    def _step(self, group: Group) -> int:
        multiple = number_for(group, self.options.round_to, 1)
        return multiple // math.gcd(multiple, group.multiplicity)

    def _rounded(self, group: Group, count: int) -> int:
        """Fewer or more channels to remove, so that what is kept is a multiple; nearest, and never none."""
        step = self._step(group)
        if step <= 1 or not count:
            return count
        kept = group.size - count
        kept = max(step, round(kept / step) * step)
        return max(group.size - kept, 0)


def chosen(policy: Policy, analysis: Analysis, scores: Scores) -> dict[str, np.ndarray]:
    """What a policy chooses, checked: it may be the user's.

    Raises:
        InputError: the policy fails, or chooses what no group can lose.
    """
    name = type(policy).__name__
    policy.check(analysis)
    try:
        found = {key: np.asarray(list(channels)) for key, channels in policy.choose(analysis, scores).items()}
    except PruneError:
        raise
    except Exception as error:
        raise InputError(f"policy {name} failed: {type(error).__name__}: {said(error)}") from error
    for key, channels in found.items():
        group = analysis.group(key)
        within = not len(channels) or (channels.dtype.kind in "iu" and 0 <= channels.min() <= channels.max() < group.size)
        if not within or len(np.unique(channels)) != len(channels) or len(channels) == group.size:
            what = f"not {shown(channels.tolist())}"
            raise InputError(f"policy {name} must choose some of the {group.size} channels of {key!r}, each once, {what}")
    return found


def share_of(size: int, ratio: float) -> int:
    """Of so many channels those that a ratio takes; none by a ratio of 0."""
    return size - _keep(size, ratio) if ratio else 0


def _keep(size: int, ratio: float) -> int:
    """``int(size * (1 - ratio))``, at least one: the convention of the pruning literature."""
    return max(1, math.floor(size * (1 - ratio) + 1e-9))
