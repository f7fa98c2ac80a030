"""Plans within the same budgets that were tried out: a part of the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Trial", "Trials"]


@dataclass(frozen=True)
class Trial:
    """One plan.

    Attributes:
        name: ``"saliency"``: what keeps the most of it; ``"ranking"``: one ranking of all channels; ``"between"`` the two;
            ``"branches"``: the first, with residual branches among what may go.
        error: of the model's output once it was repaired: its squared difference from the dense model's, as a share of that
            output's variance, on images that the repair did not see.
        macs, params: that are left; MACs of one sample.
    """

    name: str
    error: float
    macs: int
    params: int


@dataclass(frozen=True)
class Trials:
    """All of them.

    Attributes:
        trials: in the order in which they were made.
        chosen: the name of that with the least error.
        images: of how many it was repaired, and on how many others the errors were measured.
        seconds: it all took.
    """

    trials: list[Trial]
    chosen: str
    images: tuple[int, int]
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "images": list(self.images)}

    def __str__(self) -> str:
        errors = {trial.name: trial.error for trial in self.trials}
        others = ", ".join(f"{name} {error:.3g}" for name, error in errors.items() if name != self.chosen)
        return (
            f"of {len(errors)} plans within the budgets {self.chosen!r} was taken: repaired from {self.images[0]} images, its "
            f"output's error on {self.images[1]} others is {errors[self.chosen]:.3g} of the variance ({others})"
        )
