"""What a ``--report`` says of accuracy: the slim model beside the dense one, on images that it was not made from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fxprune.cli.output import note
from fxprune.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from fxprune.inputs.data import DataSpec

__all__ = ["check_data", "looked_at", "measured"]

_MOST = 1000  # images: an accuracy is then known within three points
_BATCH = 64


def looked_at(criterion: str, repair: int | None, batches: int | None, by_images: bool) -> int | None:
    """How many images, the first that are drawn, the slim model was made from; None: all of them.

    >>> looked_at("l2", 640, None, False), looked_at("l2", None, None, False)
    (640, 0)

    Args:
        by_images: the criterion observes those of the repair.
    """
    from fxprune.criteria import resolve

    seen = repair or 0
    if (by_images and batches is None) or not getattr(resolve(criterion), "needs_data", False):
        return seen
    return None if batches is None else max(seen, _BATCH * batches)


def measured(net: nn.Module, slim: Any, data: DataSpec, seen: int | None) -> None:
    """Measure both on up to 1,000 images that were not looked at; the figures are in the slim model's report. Where that is not
    possible a note says why: the model is there, and the report is written without them.

    Args:
        seen: as `looked_at` gives it.
    """
    from fxprune.recovery.validation import validate

    if seen is None:
        note("the report has no accuracy: the criterion looked at all images of --data; --batches N leaves others")
        return
    loader = replace(data, limit=_MOST, skip=seen).loader(net)
    if getattr(loader, "images", 1) == 0:
        note(f"the report has no accuracy: the slim model was made from all images of --data, which are no more than {seen}")
        return
    try:
        found = validate(net, slim, loader, latency=False)
    except InputError as error:
        note(f"the report has no accuracy: {error}")
        return
    for text in (*loader.notes, *found.notes):
        note(text)


def check_data(data: str | None, report: Path | None) -> None:
    """
    Raises:
        InputError: there is no report in which the accuracy could stand.
    """
    if data is not None and report is None:
        raise InputError("--data is for the accuracy in a report: name its file with --report")
