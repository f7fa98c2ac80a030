"""What was found when a recording was compared with the user's own model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Fidelity"]


@dataclass
class Fidelity:
    """Whether the recorded graph computes what the user's own model does.

    A check is one call of both under one seed, on the same random inputs: ``"evaluation, batch 2"``.

    Attributes:
        errors: check -> the largest relative difference of outputs, gradients and buffers; infinite where types differ.
        refused: check -> why the recording does not take what the model takes (it asserts a size, or has one mode alone).
        skipped: check -> why the model itself does not take it, or how much work it would have been.
        vacuous: why the user's weights could hide a difference; random ones were tried, too.
        tolerance: what counts as rounding.
    """

    errors: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    vacuous: list[str] = field(default_factory=list)
    tolerance: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether something was compared, and all of it was equal."""
        return bool(self.errors) and all(e <= self.tolerance for e in self.errors.values())

    @property
    def error(self) -> float:
        """The largest difference found."""
        return max(self.errors.values(), default=float("inf"))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}
