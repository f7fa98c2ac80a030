"""``--steps N`` of ``fxprune prune``: what goes, goes in several steps, with a repair after each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxprune.errors import InputError, shown

if TYPE_CHECKING:
    from torch import nn

    from fxprune.cli.output import Steps

__all__ = ["Count", "Folder", "Schedule", "Stepping"]

Count = Annotated[int | None, typer.Option("--steps", min=1, help="Remove what goes in N steps.", show_default=False)]
Schedule = Annotated[
    str, typer.Option(help="Of the steps: cubic, linear, geometric, or the share that is gone after each, as 0.5,0.8,1.")
]
Folder = Annotated[
    Path | None,
    typer.Option(help="Folder from which steps that were killed go on; written on the way.", show_default=False),
]


class Stepping:
    """What is asked for.

    Args:
        steps: None if nothing is.
        schedule: as text.
        folder: of the iteration.
        others: what cannot be asked for together with steps.

    Raises:
        InputError: it contradicts itself.
    """

    def __init__(self, steps: int | None, schedule: str, folder: Path | None, others: Any) -> None:
        numbers = "," in schedule
        if steps is None and not numbers and (schedule != "cubic" or folder is not None):
            raise InputError("--schedule and --steps-folder are for several steps: ask for them with --steps N")
        self.wanted = steps is not None or numbers
        if self.wanted and others:
            raise InputError(
                "--steps makes a new plan and its model, step by step, and keeps its place in --steps-folder: "
                "leave out --plan, --plan-only, --form module and --repair-checkpoint"
            )
        self._steps, self._folder = steps, folder
        self._schedule: Any = _numbers(schedule) if numbers else schedule

    @property
    def begun(self) -> bool:
        """Whether the folder holds steps that go on: with the table of latencies that they began with."""
        from fxprune.iterating import store

        file = store.Folder(self._folder, {}).file
        return self.wanted and file is not None and file.exists()

    def __call__(self, net: nn.Module, images: Iterable[Any] | None, step: Steps, options: Mapping[str, Any]) -> Any:
        """The slim model after the last step.

        Args:
            images: for repairs.
            step: shows what is done.
            options: of `fxprune.iterate`.
        """
        from fxprune.iterating.verb import iterate

        course = iterate(net, steps=self._steps, schedule=self._schedule, repair=images, folder=self._folder, **options)
        return step("pruning in steps", lambda: deque(course, maxlen=1).pop())


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--schedule {shown(text)} is no list of numbers: write 0.5,0.8,1") from error
