"""From what models said of every image to figures with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fxprune import nested
from fxprune.planning.validation import Against, Difference, Estimate, Figures
from fxprune.recovery.intervals import bootstrap, mcnemar, paired_interval, wilson
from fxprune.recovery.tally import Tally, calibration_error

__all__ = ["Costs", "Distance", "Judge"]


class Distance:
    """``|slim - dense| / |dense|`` of all outputs, over batches; None once they do not have one form."""

    def __init__(self) -> None:
        self.apart, self.size, self.comparable = 0.0, 0.0, True

    def add(self, dense: Any, slim: Any) -> None:
        one, two = ([t for t in nested.tensors(value) if t.is_floating_point()] for value in (dense, slim))
        if not one or [t.shape for t in one] != [t.shape for t in two]:
            self.comparable = False
        if self.comparable:
            self.apart += sum(_squares(b.double() - a.to(b.device).double()) for a, b in zip(one, two, strict=True))
            self.size += sum(_squares(a.double()) for a in one)

    @property
    def value(self) -> float | None:
        if not self.comparable:
            return None
        return float(np.sqrt(self.apart / self.size)) if self.size else (0.0 if not self.apart else float("inf"))


def _squares(tensor: Tensor) -> float:
    return float(tensor.square().sum())


@dataclass(frozen=True)
class Costs:
    """Of one model: MACs for one image, parameters, median seconds."""

    macs: int
    params: int
    latency: float | None


@dataclass(frozen=True)
class Judge:
    """Makes figures.

    Attributes:
        confidence: level of the intervals.
        bins: of the calibration error.
        seed: of the bootstrap.
    """

    confidence: float
    bins: int
    seed: int

    def figures(self, name: str, tally: Tally, costs: Costs, against: Against | None) -> Figures:
        columns = tally.columns
        shares = {key: self._share(columns[key]) for key in ("top1", "top5") if key in columns}
        error = calibration_error(columns["confidence"], columns["top1"], self.bins) if "top1" in columns else None
        means = self._means(tally)
        return Figures(
            name,
            costs.macs,
            costs.params,
            shares.get("top1"),
            shares.get("top5"),
            means.pop("the loss", None),
            error,
            means,
            costs.latency,
            against,
        )

    def _share(self, hits: np.ndarray) -> Estimate:
        return Estimate(float(hits.mean()), *wilson(int(hits.sum()), len(hits), self.confidence))

    def _means(self, tally: Tally) -> dict[str, Estimate]:
        """Loss and metrics; an interval where there is a number for every image."""
        numbers = _of_images(tally)
        values = {name: Estimate(value) for metric in tally.metrics for name, value in metric.values().items()}
        if tally.loss is not None:
            values |= {"the loss": Estimate(tally.loss.values()["the loss"])}
        return values | dict(self._intervals(numbers, lambda *entry: Estimate(*entry)))

    def against(self, dense: tuple[Tally, Costs], slim: tuple[Tally, Costs], distance: float | None) -> Against:
        """A slim model beside the dense one."""
        (one, one_costs), (two, two_costs) = dense, slim
        agreement = None
        if "said" in one.columns and "said" in two.columns:
            first, second = one.columns["said"], two.columns["said"]
            agreement = self._share(((first == second) & (first >= 0)).astype(float))
        shares = {k: self._paired(one.columns[k], two.columns[k]) for k in ("top1", "top5") if k in two.columns}
        means = self._differences(one, two)
        return Against(
            agreement,
            distance,
            shares.get("top1"),
            shares.get("top5"),
            means.pop("the loss", None),
            self._calibration(one, two),
            means,
            _ratio(two_costs.latency, one_costs.latency),
            _ratio(two_costs.macs, one_costs.macs),
            _ratio(two_costs.params, one_costs.params),
        )

    def _paired(self, dense: np.ndarray, slim: np.ndarray) -> Difference:
        gained, lost = int(((slim == 1) & (dense == 0)).sum()), int(((slim == 0) & (dense == 1)).sum())
        limits = paired_interval(gained, lost, len(slim), self.confidence)
        return Difference((gained - lost) / len(slim), *limits, mcnemar(gained, lost))

    def _calibration(self, dense: Tally, slim: Tally) -> Difference | None:
        errors = [
            calibration_error(tally.columns["confidence"], tally.columns["top1"], self.bins)
            for tally in (dense, slim)
            if "top1" in tally.columns
        ]
        return Difference(errors[1] - errors[0]) if len(errors) == 2 else None

    def _differences(self, dense: Tally, slim: Tally) -> dict[str, Difference]:
        first, second = _of_images(dense), _of_images(slim)
        values: dict[str, Difference] = {}
        pairs = list(zip((*dense.metrics, dense.loss), (*slim.metrics, slim.loss), strict=True))
        for one, two in pairs:
            if one is not None and two is not None:
                before, after = one.values(), two.values()
                values |= {name: Difference(after[name] - before[name]) for name in before if name in after}
        both = {name: second[name] - first[name] for name in first if name in second}
        return values | dict(self._intervals(both, lambda *entry: Difference(*entry)))

    def _intervals(self, numbers: dict[str, np.ndarray], make: Callable[..., Any]) -> list[tuple[str, Any]]:
        """Means of columns with their bootstrap intervals."""
        if not numbers:
            return []
        values = np.stack([*numbers.values()], 1)
        limits = bootstrap(values, self.confidence, self.seed)
        entries = zip(values.mean(0), *limits, strict=True)
        return [(name, make(*map(float, entry))) for name, entry in zip(numbers, entries, strict=True)]


def _of_images(tally: Tally) -> dict[str, np.ndarray]:
    """Loss and metrics of which there is a number for every image."""
    followed = (*tally.metrics, *((tally.loss,) if tally.loss is not None else ()))
    found = {metric.name: values for metric in followed if (values := metric.images()) is not None}
    if tally.loss is None and "loss" in tally.columns:
        found["the loss"] = tally.columns["loss"]
    return found


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
