"""Latency of a slim model beside the dense one: as it was predicted, and as it was measured; a part of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Timed"]


@dataclass(frozen=True)
class Timed:
    """Seconds of one forward of the example inputs, dense and slim.

    Attributes:
        engine, device, threads: what ran them.
        predicted: by the table of measurements.
        measured: in turns, on the slim model itself.
        pace: where a time was asked for, how many times as long the dense model took before the search as the table says;
            the predicted times are multiplied by it.
        learnt: the device of the table; empty where it is not known.
    """

    engine: str
    device: str
    threads: int
    predicted: tuple[float, float]
    measured: tuple[float, float]
    pace: float = 1.0
    learnt: str = ""

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Timed:
        """What `to_dict` gave, read back from JSON."""
        pairs = {name: tuple(document[name]) for name in ("predicted", "measured")}
        return cls(**{**{name: value for name, value in document.items() if name != "error"}, **pairs})

    @property
    def error(self) -> float:
        """Of the predicted share of the dense model's time, relative to the measured one."""
        (p0, p1), (m0, m1) = self.predicted, self.measured
        return (p1 / p0) / (m1 / m0) - 1

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "error": self.error}

    def __str__(self) -> str:
        (p0, p1), (m0, m1) = self.predicted, self.measured
        ran = f"{self.engine}, {self.threads} thread{'s' if self.threads > 1 else ''}"
        measured, predicted = (f"{a * 1e3:.2f} -> {b * 1e3:.2f} ms" for a, b in (self.measured, self.predicted))
        said = f"latency ({ran}): {measured} measured ({m1 / m0:.1%}), {predicted} predicted ({p1 / p0:.1%})"
        if self.pace != 1:
            said += f", the table's times {self.pace:.2f} times: so long the dense model took before the search"
        return said + (f"; the table is of {self.learnt}" if self.learnt not in ("", self.device) else "")
