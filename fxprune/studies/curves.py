"""What a measurement of sensitivity found: a curve for each group, as plain numbers that go to JSON and back, and as scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from fxprune import nested
from fxprune.analysis.groups import Group
from fxprune.errors import InputError, nearest
from fxprune.planning.plan import Plan
from fxprune.planning.reading import document_of_text
from fxprune.studies.reading import typed

__all__ = ["Better", "Curve", "Point", "Sensitivity", "marginal_losses"]

Better = Literal["higher", "lower"]
_FORMAT, _VERSION = "fxprune-sensitivity", 1
_TIE = 1e-9  # of the largest loss: keeps the channels of a group in their order where the curve is straight


@dataclass(frozen=True)
class Point:
    """The model without some channels of one group.

    Attributes:
        removed: how many channels went.
        value: what `evaluate` gave.
        repaired: the same after a repair; None where none was asked for.
        macs, params: what is left.
    """

    removed: int
    value: float
    repaired: float | None
    macs: int
    params: int


@dataclass(frozen=True)
class Curve:
    """One group: what removing more and more of it costs, all others whole.

    Attributes:
        group: its id.
        size: its channels.
        order: its channels, the least important first: in this order they went.
        points: by the number of channels that went.
    """

    group: str
    size: int
    order: tuple[int, ...] = field(repr=False)
    points: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Sensitivity:
    """What removing shares of each group alone does to a model; see `fxprune.sensitivity`.

    As a criterion (``fxprune.plan(model, macs=0.5, criterion=found)``) it scores each channel by the loss that its removal is
    predicted to add: their sum over all that go is the predicted loss of a plan, as far as groups do not act together.

    Attributes:
        model: class name of the model.
        digest: of its weights.
        options: the arguments.
        dense: what `evaluate` gives for the whole model.
        curves: of all groups that were measured, in the order of the graph.
        skipped: groups that were not -> why.
    """

    model: str
    digest: str
    options: Mapping[str, Any]
    dense: float
    curves: tuple[Curve, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    additive = True  # scores are losses, which neither a normalisation nor a cost should weigh

    def curve(self, group: str) -> Curve:
        """The curve of a group.

        Raises:
            InputError: it has none.
        """
        for curve in self.curves:
            if curve.group == group:
                return curve
        raise InputError(f"there is no curve of group {group!r}{nearest(group, [c.group for c in self.curves])}")

    def loss(self, point: Point, repaired: bool | None = None) -> float:
        """By how much a point is worse than the whole model; below zero where it is better.

        Args:
            repaired: of the value after the repair; None: where it was measured.
        """
        value = point.value if repaired is False or (repaired is None and point.repaired is None) else point.repaired
        if value is None:
            raise InputError("nothing was measured after a repair: give images, repair=...")
        return self.dense - value if self.options["better"] == "higher" else value - self.dense

    def losses(self, group: str, repaired: bool | None = None) -> np.ndarray:
        """What each further channel of a group adds to the loss, in the order in which they go: ``[channels]``, rising."""
        curve = self.curve(group)
        counts, losses = [p.removed for p in curve.points], [self.loss(p, repaired) for p in curve.points]
        return marginal_losses(counts, losses, curve.size)

    def predicted(self, plan: Plan, repaired: bool | None = None) -> float:
        """The loss of a plan, as far as groups do not act together: the sum over what goes of each group.

        Raises:
            InputError: the plan removes channels of a group that was not measured.
        """
        gone = {group.id: len(group.removed) for group in plan.groups if len(group.kept) < group.size}
        return float(sum(self.losses(name, repaired)[:count].sum() for name, count in gone.items()))

    def without_repair(self) -> Sensitivity:
        """The same without the values after repairs: what they predict is a model that is not repaired."""
        curves = (replace(c, points=tuple(replace(p, repaired=None) for p in c.points)) for c in self.curves)
        return replace(self, curves=tuple(curves))

    def __call__(self, group: Group, tensors: Mapping[str, Any]) -> np.ndarray:
        """Scores ``[channels]``: the predicted loss that each channel adds.

        Raises:
            InputError: the group was not measured.
        """
        found = next((c for c in self.curves if c.group == group.id), None)
        if found is None or found.size != group.size:
            why = self.skipped.get(group.id, "it was not asked for, or is of another model")
            raise InputError(
                f"sensitivity was not measured for {group.id!r} of {group.size} channels ({why}): measure it, or name its "
                "layers in ignore"
            )
        scores = np.zeros(group.size)
        largest = max((abs(self.loss(p)) for c in self.curves for p in c.points), default=0.0) or 1.0
        ties = _TIE * largest * np.arange(group.size) / group.size
        scores[list(found.order)] = self.losses(group.id) + ties
        return scores

    def __str__(self) -> str:
        from fxprune.studies.curves_text import text_of

        return text_of(self)

    # -- as JSON -------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts and lists."""
        plain: dict[str, Any] = nested.plain({"format": _FORMAT, "version": _VERSION, **asdict(self)})
        return plain

    def to_json(self) -> str:
        """The curves as text: the same curves give the same bytes."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Sensitivity:
        """Read curves back.

        Raises:
            InputError: the text holds none, is damaged, or is of a version that this fxprune cannot read.
        """
        document = document_of_text(text, _FORMAT, _VERSION, InputError)
        try:
            found: Sensitivity = typed(cls, document)
            found._check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"the sensitivity is damaged: {type(error).__name__}: {error!s:.300}") from error
        return found

    def _check(self) -> None:
        """
        Raises:
            ValueError: the parts do not fit each other.
        """
        if self.options["better"] not in ("higher", "lower") or len({c.group for c in self.curves}) != len(self.curves):
            raise ValueError("it does not say what is better, or names a group twice")
        for curve in self.curves:
            counts = [p.removed for p in curve.points]
            rises = counts == sorted(set(counts)) and all(0 < count < curve.size for count in counts)
            if not counts or not rises or sorted(curve.order) != [*range(curve.size)]:
                raise ValueError(f"the points or the order of {curve.group!r} are none")
            values = [v for p in curve.points for v in (p.value, p.repaired) if v is not None]
            if not np.isfinite([self.dense, *values]).all():
                raise ValueError(f"a value of {curve.group!r} is not finite")


def marginal_losses(removed: list[int], losses: list[float], size: int) -> np.ndarray:
    """What each further channel adds to a loss that was measured at some counts: ``[size]``, never below zero, never falling.

    Measured losses have noise, and may fall; and they level off where a model is no better than chance. So they are made
    monotone (the nearest rising values in least squares, by pooling neighbours that violate the order: Ayer et al. 1955) and
    joined by straight lines, from no loss where nothing is removed. Then no channel adds less than one that went before it, so
    that the prediction is never below the monotone curve; beyond the last count, each adds what the last one did.

    >>> marginal_losses([2, 4], [0.2, 1.0], 6).round(3).tolist()
    [0.1, 0.1, 0.4, 0.4, 0.4, 0.4]
    >>> marginal_losses([2, 4], [0.2, 0.0], 5).round(3).tolist()
    [0.05, 0.05, 0.05, 0.05, 0.05]
    """
    blocks: list[list[float]] = []  # sums, counts
    for loss in losses:
        blocks.append([loss, 1])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    rising = np.concatenate([np.full(int(count), max(0.0, total / count)) for total, count in blocks])
    counts = np.array([0, *removed])
    slopes = np.maximum.accumulate(np.diff(rising, prepend=0.0) / np.diff(counts))
    found: np.ndarray = slopes[np.minimum(np.searchsorted(counts[1:], np.arange(size), side="right"), len(slopes) - 1)]
    return found
