"""Which channels of a group may change places, and which entry of a tensor is which copy of its channel.

One channel can own several entries of an axis (the 49 positions of a flattened map, both halves of ``cat([x, f(x)])``). To
permute channels, the same copy of each must change places. Both follow from the colours of their labels
(`fxprune.proofs.refinement`): channels whose labels have the same colours play the same part in the model, and may
change places; copies are put in the order of their colours.

Colours that are too coarse, as if refinement had stopped early, are a risk of false alarms, never of a miss. They let more
permutations through, among them some that a right group does not allow: an alarm without cause. But a wrong group is not
missed more easily. Call S the permutations that are tried and H those among them that leave the output alone: one drawn at
random misses with odds ``|H| / |S|``. With coarser colours there are S' and H', and as H' holds nothing of S beyond H, at
least as many cosets: ``|H'| / |S'| <= |H| / |S|``. Nor does a wrong order of copies hide anything: whatever permutation
leaves the output alone on random weights shows that these channels can change places. What would miss is colours that are
too fine, up to a part of its own for every channel; so only what cannot be removed is coloured by its place.
"""

from __future__ import annotations

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group, Member
from fxprune.proofs.refinement import Messages, first_colors, mix, refined

__all__ = ["Occurrences"]


class Occurrences:
    """Orders the entries of each channel so that entry ``m`` is the same copy in all channels of a group."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self._factors = analysis.solution.factors
        self._composite = self._factors[analysis.solution.root, 0] >= 0
        messages = Messages.of(analysis.traced.mode.store)
        self.colors = refined(messages, first_colors(analysis))
        self.classes = np.zeros(analysis.solution.classes, np.int64)  # the colours of all labels of each class
        np.add.at(self.classes, analysis.solution.root, mix(self.colors))
        self._by_place()
        apart = 0
        while (found := len(np.unique(self.colors))) > apart and self._choose():  # each choice parts some
            self.colors, apart = refined(messages, self.colors), found

    def _by_place(self) -> None:
        """A factor of a composite changes places with another only if all their entries are alike, place by place: the other
        factor need not move with it."""
        for whole, left, right in self.analysis.solution.composites:
            entries = self.classes[whole].reshape(len(left), len(right))
            rows, columns = np.arange(len(left)), np.arange(len(right))
            np.add.at(self.classes, left, mix(entries + mix(columns + 1)[None, :]).sum(1))
            np.add.at(self.classes, right, mix(entries - mix(rows + 1)[:, None]).sum(0))

    def _choose(self) -> bool:
        """Tell copies of one colour apart by their place, in one tensor a group; False if there are none.

        Such copies mirror each other (``x + x.flip(1)``): calling one of them the first settles the rest.
        """
        found = False
        for group in self.analysis.free:
            for member in group.members:
                labels = self._labels(member)
                if self._composite[labels].any():
                    continue
                colors = np.sort(self.colors[labels], axis=1)
                if member.indices.shape[1] > 1 and (colors[:, 1:] == colors[:, :-1]).any():
                    ordered = np.take_along_axis(labels, np.argsort(self.colors[labels], axis=1, kind="stable"), axis=1)
                    self.colors[ordered] = mix(self.colors[ordered] + np.arange(ordered.shape[1]) + 1)
                    found = True
                    break
        return found

    def _labels(self, member: Member) -> np.ndarray:
        axis = self.analysis.traced.mode.axes(self.analysis.traced.tensors[member.name])[member.axis]
        assert axis.labels is not None
        return axis.labels[member.indices]

    def parts(self, group: Group) -> list[np.ndarray]:
        """Channel numbers of a group, split into those that may change places."""
        _, part = np.unique(self.classes[group.labels], return_inverse=True)
        return [np.flatnonzero(part == number) for number in range(int(part.max()) + 1)]

    def indices(self, group: Group, member: Member) -> np.ndarray:
        """``member.indices`` of a group with the copies of each channel in one order."""
        labels = self._labels(member)
        if member.indices.shape[1] == 1:
            return member.indices
        if self._composite[labels].any():
            return self._by_other_factors(group, member, labels)
        order = np.argsort(self.colors[labels], axis=1, kind="stable")
        return np.take_along_axis(member.indices, order, axis=1)

    def _by_other_factors(self, group: Group, member: Member, labels: np.ndarray) -> np.ndarray:
        """Entries of a composite (heads x head_dim) in the order of their other factors, then of their colours."""
        classes = self.analysis.solution.root[labels].tolist()
        colors = self.colors[labels].tolist()
        rows = []
        for channel, entries, shades, own in zip(member.indices.tolist(), classes, colors, group.labels.tolist(), strict=True):
            keys = [([f for f in self._leaves(c) if f != own], shade) for c, shade in zip(entries, shades, strict=True)]
            rows.append([channel[i] for i in sorted(range(len(channel)), key=keys.__getitem__)])
        return np.array(rows, np.int64)

    def _leaves(self, label: int, depth: int = 8) -> list[int]:
        """The classes that a class is a composite of, itself if it is none."""
        left, right = self._factors[label].tolist()
        if left < 0 or not depth:
            return [label]
        return [leaf for factor in (left, right) for leaf in self._leaves(factor, depth - 1)]
