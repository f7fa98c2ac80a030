"""From recorded label facts to classes: which labels are one channel, which cannot be removed, and why.

The facts are equalities, fixed labels and products ``whole = left x right`` (`fxprune.labels.products`). A product with two
free factors is a choice: one factor is fixed, or both stay free and an entry of ``whole`` goes when either of its factors
goes (a *composite*). There are three kinds of choice, made in this order:

* heads: one factor is the heads of an attention, the other the size of each. The attention policy decides.
* grouped: the groups of a convolution and the channels within each. Both stay free if no other product forbids it; the
  selection then takes the factor that is cheaper in saliency.
* finer: of any other product the smaller factor is fixed, since the larger one gives the finer choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fxprune.labels.classes import Classes
from fxprune.labels.products import compatible, propagate, without
from fxprune.labels.store import Cause, LabelStore, Product
from fxprune.options import AttentionPolicy

__all__ = ["Solution", "solve"]


@dataclass(eq=False)
class Solution:
    """Classes of labels.

    Attributes:
        root: int array ``[labels]``: the class of each label.
        fixed: bool array ``[classes]``: nothing in the class can be removed.
        cause: int array ``[classes]``: index into the store's causes, for fixed classes.
        statistics: bool array ``[classes]``: a norm, softmax or mean runs over the class.
        composites: ``(whole, left, right)`` class arrays of products with two free factors.
        exclusive: ``(left, right)`` class arrays of composites that should lose entries along one factor only.
    """

    root: np.ndarray
    fixed: np.ndarray
    cause: np.ndarray
    statistics: np.ndarray
    composites: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    exclusive: list[tuple[np.ndarray, np.ndarray]]

    @property
    def classes(self) -> int:
        return len(self.fixed)

    @cached_property
    def factors(self) -> np.ndarray:
        """Int array ``[classes, 2]``: the two classes with which an entry of a composite goes; -1 for all other classes.

        Where one factor of an entry cannot go, the entry is one class with the other factor: no composite.
        """
        table = np.full((self.classes, 2), -1)
        for whole, left, right in self.composites:
            pairs = np.stack([np.repeat(left, len(right)), np.tile(right, len(left))], axis=1)
            proper = ~self.fixed[whole] & (pairs != whole[:, None]).all(1)
            table[whole[proper]] = pairs[proper]
        return table

    def close(self, removed: np.ndarray) -> np.ndarray:
        """Spread a bool array ``[classes]`` of removed classes to the composites that contain them."""
        removed = removed.copy()
        changed = bool(self.composites)
        while changed:
            changed = False
            for whole, left, right in self.composites:
                gone = (removed[left][:, None] | removed[right][None, :]).ravel()
                if np.any(gone & ~removed[whole]):
                    removed[whole[gone]] = True
                    changed = True
        return removed


def solve(store: LabelStore, attention: AttentionPolicy = "head_dim") -> Solution:
    """Resolve the recorded facts; `attention` decides products of heads and head_dim (see the module docstring)."""
    return _Choices(store, attention).solution()


class _Choices:
    """Decides the products that the facts leave open, in rounds.

    Each round fixes a label or turns an open product into a composite, and a composite opens again only if a label was
    fixed: so the rounds end.

    Attributes:
        open: products with two free factors that are not decided.
        composites: products whose factors both stay free.
    """

    def __init__(self, store: LabelStore, attention: AttentionPolicy) -> None:
        self.store, self.attention = store, attention
        self.classes = Classes(store)
        self.open = propagate(self.classes, list(store.products))
        self.composites: list[Product] = []

    def solution(self) -> Solution:
        self._reopen()
        while self.open:
            if not self._choose_heads():
                self._choose_grouped_or_finer()
            left = propagate(self.classes, self.open + without(self.composites, self.open))
            decided = without(self.composites, without(self.composites, left))
            self.open, self.composites = without(left, decided), decided
            self._reopen()
        return self._solution()

    def _reopen(self) -> None:
        """What was compatible may not be any more, once choices have merged classes."""
        good = compatible(self.composites, self.classes)
        self.open, self.composites = self.open + without(self.composites, good), good

    # -- the three choices -------------------------------------------------------------------------------------------

    def _choose_heads(self) -> bool:
        batched = self.classes.marked(self.store.batched)
        heads = [p for p in self.open if _heads_side(p, self.classes, batched)]
        if not heads:
            return False
        policy = self.attention
        if policy == "both":
            self.composites = compatible(self.composites + heads, self.classes)
            heads, policy = without(heads, self.composites), "head_dim"
        for p in heads:
            side = _heads_side(p, self.classes, batched)
            many, size = (p.left, p.right) if side == "left" else (p.right, p.left)
            if policy in ("head_dim", "none"):
                self._fix(many, Cause(f"attention={policy!r} keeps the number of heads"))
            if policy in ("heads", "none"):
                self._fix(size, Cause(f"attention={policy!r} keeps the size of each head"))
        return True

    def _choose_grouped_or_finer(self) -> None:
        grouped = self.classes.marked(self.store.grouped)
        mine = [p for p in self.open if grouped[self.classes.root[p.left]].any()]
        good = compatible(self.composites + mine, self.classes)
        rest = without(self.open, good)
        if rest:  # of another kind, or in the way of a composite: decided first
            self._choose_finer(rest)
        else:
            self.composites = good

    def _choose_finer(self, rest: list[Product]) -> None:
        # Products that share a whole with these go with them; of all, the shape with the largest factor is decided first.
        sharing = self.classes.marked([p.whole for p in rest])
        rest = [p for p in self.open if sharing[self.classes.root[p.whole]].any()]
        left, right = max((max(len(p.left), len(p.right)), len(p.left), len(p.right)) for p in rest)[1:]
        for p in rest:
            if (len(p.left), len(p.right)) == (left, right):
                where = self.store.causes[p.cause]
                text = f"an axis of {left} x {right} loses entries along one factor only"
                self._fix(p.right if left >= right else p.left, Cause(text, where.node, where.source))

    def _fix(self, labels: np.ndarray, cause: Cause) -> None:
        self.classes.fix(labels, self.store.cause(cause))

    # -- the result --------------------------------------------------------------------------------------------------

    def _solution(self) -> Solution:
        classes, root = self.classes, self.classes.root
        found = [(root[p.whole], root[p.left], root[p.right]) for p in self.composites]
        composites = list({(w.tobytes(), a.tobytes(), b.tobytes()): (w, a, b) for w, a, b in found}.values())
        statistics = classes.marked(self.store.statistics)
        for whole, left, right in composites:  # a norm over the whole runs over both factors
            over = statistics[whole].reshape(len(left), len(right))
            statistics[left] |= over.any(1)
            statistics[right] |= over.any(0)
        batched = classes.marked(self.store.batched)
        exclusive = [(root[p.left], root[p.right]) for p in self.composites if _heads_side(p, classes, batched) is None]
        return Solution(root, classes.fixed, classes.cause, statistics, composites, exclusive)


def _heads_side(p: Product, classes: Classes, batched: np.ndarray) -> Literal["left", "right"] | None:
    """Which factor is the heads: the one that is a batch axis of matrix products."""
    left, right = batched[classes.root[p.left]].any(), batched[classes.root[p.right]].any()
    if left == right:
        return None
    return "left" if left else "right"
