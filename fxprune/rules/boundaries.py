"""Whether a reshape cuts channels at the same places whatever the sizes that follow the input."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from fxprune.labels.store import Axis

__all__ = ["Size", "holds_at_any_size"]


class Size(NamedTuple):
    """A size that a reshape asks for.

    Attributes:
        number: of entries, on the example.
        follows: it may follow the input; False of a number that the graph names.
        factor: the number in a product like ``n * 64 * m``; the size itself where the graph names it.
        others: how many factors this product has besides.
    """

    number: int
    follows: bool
    factor: int = 1
    others: int = 0


def holds_at_any_size(old: Sequence[Axis], new: Sequence[Size]) -> bool:
    """Whether the boundaries of the new axes cut the old ones in a way that does not depend on sizes that follow the input.

    A boundary inside of an axis of channels is where it is at any size if, on one side of it, neither old nor new axes
    follow the input. One inside of an axis that follows the input may not fall between two entries: what is asked for on a
    side that has channels must be written as a multiple of what is there. ``(h w, c) -> (c, h, w)`` cuts the channels at a
    place that moves with ``h w``; ``(t, c) -> (t / 2, 2 c)`` does not.
    """
    boundary = 1
    for position, size in enumerate(new[:-1], start=1):
        boundary *= size.number
        low = 1
        for k, axis in enumerate(old):
            if low < boundary < low * axis.size and not _stays(old, k, new[:position], new[position:]):
                return False
            low *= axis.size
    return True


def _stays(old: Sequence[Axis], cut: int, before: Sequence[Size], after: Sequence[Size]) -> bool:
    left, right = old[:cut], old[cut + 1 :]
    if old[cut].dynamic:
        return _multiple(before, left) and _multiple(after, right)
    return any(not any(a.dynamic for a in o) and not any(s.follows for s in n) for o, n in ((left, before), (right, after)))


def _multiple(new: Sequence[Size], old: Sequence[Axis]) -> bool:
    """Whether sizes are written as a multiple of those of old axes, where these have channels."""
    if all(a.labels is None for a in old):
        return True
    channels, others = prod(a.size for a in old if not a.dynamic), sum(a.dynamic for a in old)
    return prod(s.factor for s in new) % channels == 0 and sum(s.others for s in new) >= others
