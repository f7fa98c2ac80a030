"""Colours of labels: labels of one colour play the same part in a model.

The first colour of a label says on which axes it occurs. Then, round after round, each label hears of its neighbours: its
next colour is a hash of its own and of the *messages* that it gets, summed, as their order says nothing. Neighbours are
the labels of one recorded fact. A message is a hash of the sender's colour and of a *tag*, which says what the fact is
and what the sender is in it:

    ``a = b``                   a tells b and b tells a; each way, and each numbered copy of a channel, has its own tag
    ``whole = left x right``    both factors tell the entry of the whole; the entry and one factor tell the other

This is the test of Weisfeiler and Leman (1968). Labels that differ once differ for good, so a round that parts no more of
them changes nothing any more; there are at most as many rounds as labels. Two messages collide with odds of about 2^-64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.labels.store import LabelStore, Product, axes_in

__all__ = ["Messages", "first_colors", "mix", "refined"]

_WIDE = 2**62


@dataclass(frozen=True, eq=False)
class Messages:
    """What labels tell each other in a round.

    Attributes:
        sender, receiver, tag: int arrays, one entry a message that follows from an equality.
        products: each with the tags under which its left factor, its right factor and its whole speak.
    """

    sender: np.ndarray
    receiver: np.ndarray
    tag: np.ndarray
    products: list[tuple[Product, tuple[int, int, int]]]

    @classmethod
    def of(cls, store: LabelStore) -> Messages:
        """The messages that the recorded facts call for."""
        random = np.random.default_rng(1)
        none = np.zeros(0, np.int64)
        senders, receivers, tags = [none], [none], [none]
        for fact, (a, b) in enumerate(store.pairs):
            there, back, copy = random.integers(1, _WIDE, size=3)
            number = (copy | 1) * store.numbers.get(fact, np.zeros(len(a), np.int64))
            senders += [b, a]
            receivers += [a, b]
            tags += [mix(number + there), mix(number + back)]
        spoken = random.integers(1, _WIDE, size=(len(store.products), 3)).tolist()
        products = [
            (product, (left, right, whole)) for product, (left, right, whole) in zip(store.products, spoken, strict=True)
        ]
        return cls(np.concatenate(senders), np.concatenate(receivers), np.concatenate(tags), products)

    def exchanged(self, colors: np.ndarray) -> np.ndarray:
        """The colours after one round."""
        new = mix(colors)
        np.add.at(new, self.receiver, mix(colors[self.sender] + self.tag))
        for product, (left_tag, right_tag, whole_tag) in self.products:
            left, right = mix(colors[product.left] + left_tag), mix(colors[product.right] + right_tag)
            whole = colors[product.whole].reshape(len(left), len(right)) + whole_tag
            np.add.at(new, product.whole, mix(left[:, None] + right[None, :] * 3).ravel())
            np.add.at(new, product.left, mix(whole + right[None, :]).sum(1))
            np.add.at(new, product.right, mix(whole - left[:, None]).sum(0))
        return new


def first_colors(analysis: Analysis) -> np.ndarray:
    """A colour for each label by itself. What cannot go is never permuted, so each such label is known by itself."""
    traced, solution = analysis.traced, analysis.solution
    random = np.random.default_rng(0)
    colors = np.zeros(traced.mode.store.count, np.int64)
    fixed = solution.fixed[solution.root]
    colors[fixed] = random.integers(1, _WIDE, size=int(fixed.sum()))
    axes = [axis for tensor in traced.tensors.values() for axis in traced.mode.axes(tensor)]
    axes += [axis for value in traced.axes.values() for axis in axes_in(value)]
    for axis in axes:
        if axis.labels is not None:
            np.add.at(colors, axis.labels, int(random.integers(1, _WIDE)))
    return colors


def refined(messages: Messages, colors: np.ndarray) -> np.ndarray:
    """The colours after as many rounds as part labels of one colour."""
    apart = len(np.unique(colors))
    while True:
        new = messages.exchanged(colors)
        found = len(np.unique(new))
        if found <= apart:
            return colors
        colors, apart = new, found


def mix(values: np.ndarray) -> np.ndarray:
    """A hash of each number (the finaliser of splitmix64)."""
    x = np.asarray(values, np.int64).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).astype(np.int64)
