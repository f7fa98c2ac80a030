"""Whether a reshape cuts channels at the same places whatever the sizes that follow the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fxprune.labels.store import Axis

__all__ = ["Size", "holds_at_any_size"]


class Size(NamedTuple):
    """A size that a reshape asks for.

    Attributes:
        number: of entries, on the example.
        follows: it may follow the input; False of a number that the graph names.
    """

    number: int
    follows: bool


def holds_at_any_size(old: Sequence[Axis], new: Sequence[Size]) -> bool:
    """Whether the boundaries of the new axes cut the old ones in a way that does not depend on sizes that follow the input.

    A boundary inside of an axis of channels is where it is at any size if, on one side of it, neither old nor new axes
    follow the input. One inside of an axis that follows the input needs the same, and no channels on the other side: else
    the sizes at which it falls between two entries are not all that the reshape allows. ``(h w, c) -> (c, h, w)`` cuts the
    channels at a place that moves with ``h w``; ``(t, c) -> (t / 2, 2 c)`` does not.
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
    still_left = not any(a.dynamic for a in left) and not any(s.follows for s in before)
    still_right = not any(a.dynamic for a in right) and not any(s.follows for s in after)
    if not old[cut].dynamic:
        return still_left or still_right
    channels_left, channels_right = (any(a.labels is not None for a in side) for side in (left, right))
    return (still_left and not channels_right) or (still_right and not channels_left)
