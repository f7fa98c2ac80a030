"""What `fxprune.validate` found: how well slim models do beside the dense one, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fxprune import nested
from fxprune.errors import InputError, nearest

__all__ = ["Against", "Difference", "Estimate", "Figures", "Validation"]


@dataclass(frozen=True)
class Estimate:
    """A figure measured on a sample of images, and its confidence interval; None where there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """A figure of a slim model less the dense one's, measured on the same images.

    Attributes:
        value: the difference; of shares 0.01 is a point.
        low, high: its confidence interval; None where there is none.
        p: how likely a difference as large is if both models are right equally often (McNemar); of shares alone.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Against:
    """A slim model beside the dense one. What was not measured is None.

    Attributes:
        agreement: share of the images of which both say the same class.
        distance: ``|slim - dense| / |dense|`` of all outputs, Euclidean norms.
        top1, top5, loss, calibration: differences, of the figures of the same name.
        metrics: of metrics.
        latency: seconds of the slim model over those of the dense one, medians.
        macs, params: likewise.
    """

    agreement: Estimate | None = None
    distance: float | None = None
    top1: Difference | None = None
    top5: Difference | None = None
    loss: Difference | None = None
    calibration: Difference | None = None
    metrics: Mapping[str, Difference] = field(default_factory=dict)
    latency: float | None = None
    macs: float | None = None
    params: float | None = None


@dataclass(frozen=True)
class Figures:
    """What was measured of one model. What was not is None.

    Attributes:
        name: ``"dense"``, ``"slim"``, or the name that was given.
        top1, top5: share of the images whose label is the likeliest class, or among the five likeliest (of six or more).
        loss: mean over images.
        calibration: expected calibration error (Guo et al., ICML 2017, equation 3), in bins of equal width: the mean, over
            images, of how far the accuracy of each bin is from its confidence, ``sum_m |B_m| / n * |acc(B_m) - conf(B_m)|``.
        metrics: name -> what the metric says.
        macs: multiply-accumulates for one image.
        params: parameters, shared ones counted once.
        latency: median seconds of one forward of the timed batch.
        against: beside the dense model; None of that itself.
    """

    name: str
    macs: int
    params: int
    top1: Estimate | None = None
    top5: Estimate | None = None
    loss: Estimate | None = None
    calibration: float | None = None
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    latency: float | None = None
    against: Against | None = None


@dataclass(frozen=True)
class Validation:
    """Slim models beside the dense one on the same images; see `fxprune.validate`.

    Attributes:
        model: class name of the dense model.
        dense, slim: what was measured of each.
        images: how many were shown.
        labelled: whether there were labels.
        confidence: level of the intervals.
        bins: of the calibration error.
        batch: images of the batch whose forward was timed.
        device: that it ran on, and the threads of the CPU.
        notes: what to know before trusting the figures.
    """

    model: str
    dense: Figures
    slim: tuple[Figures, ...]
    images: int
    labelled: bool
    confidence: float
    bins: int
    batch: int
    device: str
    notes: tuple[str, ...] = ()

    def of(self, name: str) -> Figures:
        """The figures of one of the models.

        Raises:
            InputError: there is none of that name.
        """
        found = {figures.name: figures for figures in (self.dense, *self.slim)}
        if name not in found:
            raise InputError(f"no model {name!r} was validated{nearest(name, found)}: there are {', '.join(found)}")
        return found[name]

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts and lists for JSON; what is not finite becomes None."""
        plain: dict[str, Any] = nested.plain(asdict(self))
        return plain

    def __str__(self) -> str:
        from fxprune.planning.validation_text import text_of

        return text_of(self)
