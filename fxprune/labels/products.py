"""Products ``whole = left x right`` of axes: what one side says of the other, to a fixpoint.

* A row of ``left`` fixed: that row of ``whole`` repeats ``right``; a column of ``right`` fixed: likewise for ``left``.
* A fixed entry of ``whole`` fixes its row and its column.
* Two products over one ``whole`` in the same shape have equal factors; over equal factors, equal wholes.
"""

from __future__ import annotations

import numpy as np

from fxprune.labels.classes import Classes
from fxprune.labels.store import Product

__all__ = ["compatible", "propagate", "without"]


def propagate(classes: Classes, products: list[Product]) -> list[Product]:
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


def _apply(classes: Classes, p: Product) -> bool:
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


def _match(classes: Classes, products: list[Product]) -> bool:
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


def compatible(products: list[Product], classes: Classes) -> list[Product]:
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


def without(products: list[Product], others: list[Product]) -> list[Product]:
    """The products that are not among the others."""
    known = {id(p) for p in others}
    return [p for p in products if id(p) not in known]
