"""A partition of the labels into classes: what is equal is one class, and what cannot go is fixed, with its cause."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fxprune.labels.store import LabelStore

__all__ = ["Classes"]

_NO_CAUSE = np.iinfo(np.int64).max


class Classes:
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

    def marked(self, marks: Iterable[np.ndarray]) -> np.ndarray:
        """Bool array ``[classes]``: those with a marked label."""
        found = np.zeros(len(self.fixed), bool)
        for labels in marks:
            found[self.root[labels]] = True
        return found

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
