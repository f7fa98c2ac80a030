"""From recorded label facts to classes: which labels are one channel, which cannot be removed, and why.

The facts are equalities, fixed labels and products ``whole = left x right``. Products are solved to a fixpoint:

* a row of ``left`` fixed: that row of ``whole`` repeats ``right``; a column of ``right`` fixed: likewise for ``left``;
* a fixed entry of ``whole`` fixes its row and its column;
* two products over one ``whole`` in the same shape have equal factors; over equal factors, equal wholes.

What then has both factors free is a choice. Either a policy fixes one factor, or both stay free and an entry of ``whole``
goes when either of its factors goes (a *composite*): heads x head_dim if the attention policy says so, and the groups of
a convolution x the channels in each, of which the selection then takes the factor that is cheaper in saliency.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fxprune.labels.store import Cause, LabelStore, Product
from fxprune.options import AttentionPolicy

__all__ = ["Solution", "solve"]

_NO_CAUSE = np.iinfo(np.int64).max


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


class _Classes:
    """A partition of the labels that only ever gets coarser."""

    def __init__(self, store: LabelStore) -> None:
        self.root = np.arange(store.count)
        self.fixed = np.zeros(store.count, bool)
        self.cause = np.full(store.count, _NO_CAUSE)
        self.fixed[0], self.cause[0] = True, 0
        for labels, cause in store.fixed:
            self.fix(labels, cause)
        self._pairs = list(store.pairs)
        self.merge()

    def fix(self, labels: np.ndarray, cause: int) -> bool:
        """Fix the classes of these labels; True if that is news."""
        classes = self.root[labels]
        fresh = classes[~self.fixed[classes]]
        if not len(fresh):
            return False
        self.fixed[fresh] = True
        np.minimum.at(self.cause, fresh, cause)
        return True

    def same(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Note that two arrays of labels are equal, entry by entry; True if that is news."""
        ra, rb = self.root[a], self.root[b]
        # Two fixed classes need not become one: nothing in either can go.
        differ = (ra != rb) & ~(self.fixed[ra] & self.fixed[rb])
        if not differ.any():
            return False
        self._pairs.append((a[differ], b[differ]))
        return True

    def merge(self) -> None:
        """Apply the noted equalities."""
        if not self._pairs:
            return
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        a = np.concatenate([p[0] for p in self._pairs])
        b = np.concatenate([p[1] for p in self._pairs])
        self._pairs = []
        a, b = self.root[a], self.root[b]
        # Label 0 is every entry that is fixed from the start: what meets it is fixed too, but not one class with it.
        zero = self.root[0]
        for one, other in ((a, b), (b, a)):
            meets = other[(one == zero) & (other != zero)]
            self.fixed[meets] = True
            np.minimum.at(self.cause, meets, 0)
        keep = (a != zero) & (b != zero) & (a != b)
        n = len(self.fixed)
        graph = coo_array((np.ones(int(keep.sum()), np.int8), (a[keep], b[keep])), shape=(n, n))
        count, component = connected_components(graph, directed=False)
        fixed = np.zeros(count, bool)
        fixed[component[self.fixed]] = True
        cause = np.full(count, _NO_CAUSE)
        np.minimum.at(cause, component[self.fixed], self.cause[self.fixed])
        self.root, self.fixed, self.cause = component[self.root], fixed, cause


def solve(store: LabelStore, attention: AttentionPolicy = "head_dim") -> Solution:
    """Resolve the recorded facts; `attention` decides products of heads and head_dim (see the module docstring)."""
    classes = _Classes(store)
    active = _propagate(classes, list(store.products))
    both: list[Product] = []
    while True:
        # What was compatible may not be any more, once later choices have merged classes.
        compatible = _compatible(both, classes)
        active += [p for p in both if p not in compatible]
        both = compatible
        if not active:
            break
        batched = _marked(classes, store.batched)
        heads = [p for p in active if _heads_side(p, classes, batched)]
        if heads and attention == "both":
            both = _compatible(both + heads, classes)
            chosen = [p for p in heads if p not in both]
            _choose_heads(chosen, classes, batched, "head_dim", store)
        elif heads:
            _choose_heads(heads, classes, batched, attention, store)
        else:
            grouped = _marked(classes, store.grouped)
            compatible = _compatible(both + [p for p in active if grouped[classes.root[p.left]].any()], classes)
            rest = [p for p in active if p not in compatible]
            if rest:
                _choose_finer(_sharing(rest, active, classes), classes, store)
            else:
                both = compatible
        undecided = _propagate(classes, active + [p for p in both if p not in active])
        both = [p for p in both if p in undecided]
        active = [p for p in undecided if p not in both]
    root = classes.root
    composites = _unique([(root[p.whole], root[p.left], root[p.right]) for p in both])
    statistics = _marked(classes, store.statistics)
    for whole, left, right in composites:  # a norm over the whole runs over both factors
        over = statistics[whole].reshape(len(left), len(right))
        statistics[left] |= over.any(1)
        statistics[right] |= over.any(0)
    batched = _marked(classes, store.batched)
    exclusive = [(root[p.left], root[p.right]) for p in both if _heads_side(p, classes, batched) is None]
    return Solution(root, classes.fixed, classes.cause, statistics, composites, exclusive)


def _marked(classes: _Classes, marks: list[np.ndarray]) -> np.ndarray:
    """Bool array ``[classes]``: those with a marked label."""
    found = np.zeros(len(classes.fixed), bool)
    for labels in marks:
        found[classes.root[labels]] = True
    return found


def _propagate(classes: _Classes, products: list[Product]) -> list[Product]:
    """Run the product rules to a fixpoint; return the products that still have two free factors."""
    classes.merge()
    changed = True
    while changed:
        changed = False
        undecided: list[Product] = []
        for p in products:
            changed |= _apply(classes, p)
        classes.merge()
        for p in products:
            left, right = classes.fixed[classes.root[p.left]], classes.fixed[classes.root[p.right]]
            if not (left.all() or right.all()):
                undecided.append(p)
            else:
                changed |= _apply(classes, p)
        products = undecided
        changed |= _match(classes, products)
        classes.merge()
    return products


def _apply(classes: _Classes, p: Product) -> bool:
    shape = (len(p.left), len(p.right))
    changed = False
    whole = classes.fixed[classes.root[p.whole]].reshape(shape)
    if whole.any():
        cause = int(classes.cause[classes.root[p.whole]][whole.ravel()].min())
        changed |= classes.fix(p.left[whole.any(1)], cause)
        changed |= classes.fix(p.right[whole.any(0)], cause)
    labels = p.whole.reshape(shape)
    left, right = classes.fixed[classes.root[p.left]], classes.fixed[classes.root[p.right]]
    if left.any():
        changed |= classes.same(labels[left].ravel(), np.tile(p.right, int(left.sum())))
    if right.any():
        changed |= classes.same(labels[:, right].ravel(), np.repeat(p.left, int(right.sum())))
    return changed


def _match(classes: _Classes, products: list[Product]) -> bool:
    """Equal wholes of one shape have equal factors; equal factors have equal wholes."""
    changed = False
    by_whole: dict[tuple[bytes, int], Product] = {}
    by_factors: dict[tuple[bytes, bytes], Product] = {}
    for p in products:
        whole = classes.root[p.whole].tobytes()
        left, right = classes.root[p.left].tobytes(), classes.root[p.right].tobytes()
        q = by_whole.setdefault((whole, len(p.left)), p)
        if q is not p:
            changed |= classes.same(p.left, q.left)
            changed |= classes.same(p.right, q.right)
        q = by_factors.setdefault((left, right), p)
        if q is not p:
            changed |= classes.same(p.whole, q.whole)
    return changed


def _heads_side(p: Product, classes: _Classes, batched: np.ndarray) -> Literal["left", "right"] | None:
    left, right = batched[classes.root[p.left]].any(), batched[classes.root[p.right]].any()
    if left == right:
        return None
    return "left" if left else "right"


def _choose_heads(
    products: list[Product], classes: _Classes, batched: np.ndarray, policy: AttentionPolicy, store: LabelStore
) -> None:
    for p in products:
        side = _heads_side(p, classes, batched)
        heads, dims = (p.left, p.right) if side == "left" else (p.right, p.left)
        if policy in ("head_dim", "none"):
            classes.fix(heads, store.cause(Cause(f"attention={policy!r} keeps the number of heads")))
        if policy in ("heads", "none"):
            classes.fix(dims, store.cause(Cause(f"attention={policy!r} keeps the size of each head")))


def _compatible(products: list[Product], classes: _Classes) -> list[Product]:
    """Products whose wholes can stay composite: each class of a whole has one pair of factors, in all products."""
    seen: dict[int, tuple[int, int]] = {}
    good: list[Product] = []
    for p in products:
        whole = classes.root[p.whole].tolist()
        left = np.repeat(classes.root[p.left], len(p.right)).tolist()
        right = np.tile(classes.root[p.right], len(p.left)).tolist()
        entries = list(zip(whole, zip(left, right, strict=True), strict=True))
        if all(seen.get(w, f) == f for w, f in entries) and len(dict(entries)) == len(set(entries)):
            seen.update(entries)
            good.append(p)
    return good


def _sharing(products: list[Product], among: list[Product], classes: _Classes) -> list[Product]:
    """Those of `among` whose wholes have a class in common with these products' wholes."""
    marked = _marked(classes, [p.whole for p in products])
    return [p for p in among if marked[classes.root[p.whole]].any()]


def _choose_finer(products: list[Product], classes: _Classes, store: LabelStore) -> None:
    """Fix the smaller factor of all products of the commonest-first shape: the larger one gives the finer choice."""
    shape = max((max(len(p.left), len(p.right)), len(p.left), len(p.right)) for p in products)[1:]
    for p in products:
        if (len(p.left), len(p.right)) != shape:
            continue
        cause = Cause(f"an axis of {shape[0]} x {shape[1]} loses entries along one factor only", *_where(store, p))
        classes.fix(p.right if len(p.left) >= len(p.right) else p.left, store.cause(cause))


def _where(store: LabelStore, p: Product) -> tuple[str, str]:
    cause = store.causes[p.cause]
    return cause.node, cause.source


def _unique(
    composites: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    found = {(w.tobytes(), a.tobytes(), b.tobytes()): (w, a, b) for w, a, b in composites}
    return list(found.values())
