"""Which channels of a group may change places, and which entry of a tensor is which copy of its channel.

One channel can own several entries of an axis (the 49 positions of a flattened map, both halves of ``cat([x, f(x)])``). To
permute channels, the same copy of each must change places. Copies are told apart by how their labels came about: every
label gets a colour from the recorded facts and the operations around it, refined a few times as in the Weisfeiler-Leman
test. Channels whose labels have the same colours play the same part in the model, and may change places.
"""

from __future__ import annotations

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group, Member
from fxprune.labels.store import axes_in

__all__ = ["Occurrences"]

_ROUNDS = 64
_CHOICES = 8


class Occurrences:
    """Orders the entries of each channel so that entry ``m`` is the same copy in all channels of a group."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self._factors = analysis.solution.factors
        self._composite = self._factors[analysis.solution.root, 0] >= 0
        colors, salts = _first_colors(analysis)
        self.colors = _refined(analysis, colors, salts)
        self.classes = np.zeros(analysis.solution.classes, np.int64)  # the colours of all labels of each class
        with np.errstate(over="ignore"):
            np.add.at(self.classes, analysis.solution.root, _mix(self.colors))
            self._by_place()
        # Copies that mirror each other (``x + x.flip(1)``) have one colour: calling one of them the first settles the rest.
        for _ in range(_CHOICES):
            if not self._choose():
                break
            self.colors = _refined(analysis, self.colors, salts)

    def _by_place(self) -> None:
        """A factor of a composite changes places with another only if all their entries are alike, place by place: the other
        factor need not move with it."""
        for whole, left, right in self.analysis.solution.composites:
            entries = self.classes[whole].reshape(len(left), len(right))
            rows, columns = np.arange(len(left)), np.arange(len(right))
            np.add.at(self.classes, left, _mix(entries + _mix(columns + 1)[None, :]).sum(1))
            np.add.at(self.classes, right, _mix(entries - _mix(rows + 1)[:, None]).sum(0))

    def _choose(self) -> bool:
        """Tell copies of one colour apart by their place, in one tensor a group; False if there are none."""
        found = False
        for group in self.analysis.free:
            for member in group.members:
                labels = self._labels(member)
                if self._composite[labels].any():
                    continue
                colors = np.sort(self.colors[labels], axis=1)
                if member.indices.shape[1] > 1 and (colors[:, 1:] == colors[:, :-1]).any():
                    ordered = np.take_along_axis(labels, np.argsort(self.colors[labels], axis=1, kind="stable"), axis=1)
                    self.colors[ordered] = _mix(self.colors[ordered] + np.arange(ordered.shape[1]) + 1)
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


def _first_colors(analysis: Analysis) -> tuple[np.ndarray, list[int]]:
    """A colour for each label by itself, and a number for each recorded fact."""
    store, solution = analysis.traced.mode.store, analysis.solution
    random = np.random.default_rng(0)
    colors = np.zeros(store.count, np.int64)
    # What cannot go is never permuted, so each such label is known by itself; the others by the axis that bore them.
    fixed = solution.fixed[solution.root]
    colors[fixed] = random.integers(1, 2**62, size=int(fixed.sum()))
    for tensor in analysis.traced.tensors.values():
        for axis in analysis.traced.mode.axes(tensor):
            if axis.labels is not None:
                colors[axis.labels] += int(random.integers(1, 2**62))
    with np.errstate(over="ignore"):
        for value in analysis.traced.axes.values():
            for axis in axes_in(value):
                if axis.labels is not None:
                    np.add.at(colors, axis.labels, int(random.integers(1, 2**62)))
    salts = [int(n) | 1 for n in random.integers(1, 2**62, size=3 * (len(store.pairs) + len(store.products)))]
    return colors, salts


def _refined(analysis: Analysis, colors: np.ndarray, salts: list[int]) -> np.ndarray:
    """Colours that also tell of the labels around each label, refined until they part no more labels."""
    store, apart = analysis.traced.mode.store, 0
    with np.errstate(over="ignore"):
        for _ in range(_ROUNDS):
            new = _mix(colors)
            for event, (a, b) in enumerate(store.pairs):
                number = store.numbers.get(event)
                tag = salts[3 * event] if number is None else _mix(number * salts[3 * event] + salts[3 * event + 1])
                np.add.at(new, a, _mix(colors[b] + tag))
                np.add.at(new, b, _mix(colors[a] + tag + 1))
            for event, product in enumerate(store.products, start=len(store.pairs)):
                left, right = (_mix(colors[f] + salts[3 * event + i]) for i, f in enumerate((product.left, product.right)))
                np.add.at(new, product.whole, _mix(left[:, None] + right[None, :] * 3).ravel())
                # A factor is also known by the entries that it takes part in, each with its partner.
                whole = colors[product.whole].reshape(len(left), len(right)) + salts[3 * event + 2]
                np.add.at(new, product.left, _mix(whole + right[None, :]).sum(1))
                np.add.at(new, product.right, _mix(whole - left[:, None]).sum(0))
            colors = new
            found = len(np.unique(colors))
            if found <= apart:
                break
            apart = found
    return colors


def _mix(values: np.ndarray) -> np.ndarray:
    """A hash of each number (the finaliser of splitmix64)."""
    x = np.asarray(values, np.int64).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).astype(np.int64)
