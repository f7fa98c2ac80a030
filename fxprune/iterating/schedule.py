"""How much goes in each step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from fxprune.errors import InputError, shown
from fxprune.options import PruneOptions, one_of, real, several

__all__ = ["Name", "Schedule", "schedule_of"]

Name = Literal["cubic", "linear", "geometric"]
_MOST = 1000
_STEPS = 5


@dataclass(frozen=True)
class Schedule:
    """What is kept after each step, of what the model has, where `final` is kept in the end.

    With ``p = step / steps``: ``"linear"``, ``1 - (1 - final) p``; ``"cubic"``, ``final + (1 - final) (1 - p)^3``, which is
    equation 1 of Zhu & Gupta, "To prune, or not to prune", 2017 (arXiv 1710.01878) from a whole model, and takes most at first,
    when there is most to spare; ``"geometric"``, ``final^p``: every step takes the same share of what is left.

    >>> [round(Schedule("cubic", 4).kept(0.5, step), 3) for step in (1, 2, 3, 4)]
    [0.711, 0.562, 0.508, 0.5]

    Attributes:
        name: of the formula, or the shares of the way that are gone after each step, the last of which is 1.
        steps: how many.
    """

    name: Name | tuple[float, ...]
    steps: int

    def kept(self, final: float, step: int) -> float:
        """The fraction that is kept after a step, from 1."""
        part = step / self.steps
        if self.name == "geometric":
            return float(final**part)
        if self.name == "cubic":
            part = 1 - (1 - part) ** 3
        elif not isinstance(self.name, str):
            part = self.name[step - 1]
        return 1 - (1 - final) * part

    def options(self, asked: PruneOptions, shares: Mapping[str, float], step: int) -> PruneOptions:
        """The options of a step: those that were asked for with what is kept by then; in the last step as they are.

        Args:
            shares: of each budget, the fraction of the model's own that is kept in the end.
        """
        if step == self.steps:
            return asked
        changed: dict[str, Any] = {name: self.kept(share, step) for name, share in shares.items() if share < 1}
        if isinstance(asked.ratio, Mapping):
            changed["ratio"] = {pattern: 1 - self.kept(1 - ratio, step) for pattern, ratio in asked.ratio.items()}
        elif asked.ratio is not None:
            changed["ratio"] = 1 - self.kept(1 - asked.ratio, step)
        return replace(asked, **changed)

    def to_json(self) -> str | list[float]:
        """As a plan's options hold it."""
        return self.name if isinstance(self.name, str) else list(self.name)


def schedule_of(schedule: Any, steps: Any) -> Schedule:
    """The schedule that a user names.

    >>> schedule_of([0.5, 0.8, 1], None).steps
    3

    Raises:
        InputError: it is none, or has not so many steps.
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or not 0 < steps <= _MOST):
        raise InputError(f"steps must be a whole number from 1 to {_MOST}, not {shown(steps)}")
    if isinstance(schedule, str) or not isinstance(schedule, Iterable):
        name: Any = one_of("schedule", schedule, [*get_args(Name)])
        return Schedule(name, _STEPS if steps is None else steps)
    shares = _shares([*several(schedule, "schedule")])
    if steps not in (None, len(shares)):
        raise InputError(f"the schedule has {len(shares)} steps, and steps says {steps}: leave one of them out")
    return Schedule(tuple(shares), len(shares))


def _shares(given: Sequence[Any]) -> list[float]:
    """
    Raises:
        InputError: they do not rise to 1.
    """
    found = [float("nan") if (value := real(each)) is None else float(value) for each in given]
    rises = bool(found) and found[0] > 0 and all(a < b for a, b in itertools.pairwise(found))
    if not rises or found[-1] != 1 or len(found) > _MOST:
        raise InputError(
            f"a schedule of numbers says how much of the way is gone after each step: above 0, rising, and 1 at last, as "
            f"[0.5, 0.8, 1], not {shown(list(given))}"
        )
    return found
