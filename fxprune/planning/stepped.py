"""Which step of an iteration a slim model is: a part of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxprune.planning.report import Checks

__all__ = ["Step"]


@dataclass(frozen=True)
class Step:
    """One step of `fxprune.iterate`. The report's own checks are of the model that was cut in this step: the original with the
    weights that it had by then.

    Attributes:
        number, of: from 1 to how many.
        schedule: by which.
        trained: whether `train` has run since the cut; then the weights are no longer those that were compared.
        original: of the last step, the checks of the final plan on the original and its own weights.
    """

    number: int
    of: int
    schedule: str | list[float]
    trained: bool = False
    original: Checks | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**vars(self), "original": None if self.original is None else self.original.to_dict()}
