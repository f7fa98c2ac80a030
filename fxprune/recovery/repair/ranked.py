"""What ranks the channels of a model that is repaired afterwards, where nobody said it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fxprune.options import Criterion
from fxprune.planning.report import report_of

__all__ = ["CHOSEN", "Ranked", "default_criterion", "ranked"]

CHOSEN = "as a repair follows, surgeon ranked the channels, by what a repair cannot undo; criterion='l2' looks at weights alone"
_SIZE = 64


@dataclass(frozen=True)
class Ranked:
    """What `fxprune.prune` goes by.

    Attributes:
        criterion: that ranks the channels.
        data: that it observes, if any.
        images: of the repair, if there is one; they can be read as often as one likes where `data` are the same.
        note: what the report says of the choice; empty where it was the user's.
    """

    criterion: Criterion
    data: Any
    images: Any
    note: str = ""

    def told(self, slim: Any) -> Any:
        """The slim model, whose report says what was chosen."""
        if self.note and (report := report_of(slim)) is not None:
            report.notes.append(self.note)
        return slim


def ranked(criterion: Criterion | None, data: Iterable[Any] | None, images: Any, budgets: Iterable[Any] = ()) -> Ranked:
    """The criterion that is meant, and what it observes: `data`, or the images of the repair where there are none.

    >>> ranked(None, None, None).criterion
    'l2'

    Args:
        criterion: None: `default_criterion`.
        images: of the repair, a tensor or batches; None: there is none.
        budgets: that are given, or None: under any of them the images are read again, to choose among plans.
    """
    if isinstance(images, Iterator) and (criterion is None or any(budget is not None for budget in budgets)):
        images = list(images)  # which could be read once
    if criterion is not None or images is None:
        return Ranked(default_criterion(repaired=False) if criterion is None else criterion, data, images)
    name = default_criterion(repaired=True)
    if data is not None:
        return Ranked(name, data, images, CHOSEN)
    seen = [(part,) for part in images.split(_SIZE)] if isinstance(images, Tensor) and images.dim() else images
    return Ranked(name, seen, images, CHOSEN)


def default_criterion(repaired: bool) -> str:
    """What ranks channels where nobody said it: what a repair cannot undo, if one follows, else the norm of the weights.

    >>> default_criterion(repaired=True)
    'surgeon'
    """
    return "surgeon" if repaired else "l2"
