"""The latency of every choice of channels, as a search under budgets sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fxprune.profiling.fitting import Fitted, misaligned
from fxprune.profiling.segments import Segments

__all__ = ["Predicted"]

_NANO = 1e9
_LEAST = 0.2  # of its segments' time a model takes, whatever the correction says of very small ones


@dataclass(frozen=True, eq=False)
class Predicted:
    """A fitted table as `fxprune.analysis.costs.Costs`, in nanoseconds for the whole batch of the example inputs.

    Steps of kernels make it no convex function, nor one that always grows: keeping 63 channels may take longer than 64.

    Attributes:
        key: of the table: device, engine, threads, ...
    """

    segments: Segments
    fitted: Fitted
    key: dict[str, Any]
    names: tuple[str, ...] = field(default=("latency",), init=False)

    @property
    def exact(self) -> bool:
        """Times go by counts: which channels are kept makes no difference."""
        return self.segments.exact

    @property
    def convex(self) -> np.ndarray:
        return np.zeros(1, bool)

    def by_segment(self, kept: np.ndarray) -> np.ndarray:
        """Seconds of each segment: float array ``[segments]``; what the whole takes beside them is not among them."""
        parts = self.segments.padded(kept, self.fitted.multiples) * self._rates(kept)
        return np.bincount(self.segments.owners, parts, len(self.segments))

    def smooth(self, kept: np.ndarray) -> np.ndarray:
        """`by_segment` of widths that kernels like best: no blocks, and nothing that misalignment costs."""
        rates = (self.fitted.coefficients * self.fitted.scales[:, None])[self.segments.owners, self.segments.features]
        return np.bincount(self.segments.owners, self.segments.parts(kept) * rates, len(self.segments))

    def seconds(self, kept: np.ndarray) -> float:
        """Of one forward."""
        parts = float(self.by_segment(kept).sum())
        return max(parts + self.fitted.base, _LEAST * parts)

    def values(self, kept: np.ndarray) -> np.ndarray:
        """``[1]``, in nanoseconds."""
        return np.array([self.seconds(kept) * _NANO])

    def slopes(self, kept: np.ndarray) -> np.ndarray:
        """``[1, groups]``: mean slopes, without the steps of kernels."""
        return self.segments.slope(self._rates(kept) * _NANO, kept)[None]

    def _rates(self, kept: np.ndarray) -> np.ndarray:
        """Seconds for one unit of each term: float array ``[terms]``."""
        rates = self.fitted.rates(misaligned(self.segments, kept)) * self.fitted.scales[:, None]
        return np.asarray(rates[self.segments.owners, self.segments.features])
