"""The latency of every choice of channels, as a search under budgets sees it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.profiling.fitting import Fitted, misaligned
from fxprune.profiling.segments import BESIDE, Segments

__all__ = ["Predicted"]

_NANO = 1e9
_LEAST = 0.2  # of its segments' time a model takes, whatever the correction says of very small ones


@dataclass(frozen=True, eq=False)
class Predicted:
    """A fitted table as `fxprune.analysis.costs.Costs`, in nanoseconds for the whole batch of the example inputs.

    Steps of kernels make it no convex function, nor one that always grows: keeping 63 channels may take longer than 64.

    Attributes:
        key: of the table: device, engine, threads, ...
        alive: float array ``[terms]``: what is left of each without the branches that are gone; None of the whole model.
        groups, whole: places of the groups that are left among all, and the sizes of all; `kept` below is of those left.
        sizes: group id -> channels, of the groups that the table knows, in its order; empty: those of the whole analysis.
        pace: by which all times of the table are multiplied already (`paced`).
    """

    segments: Segments
    fitted: Fitted
    key: dict[str, Any]
    alive: np.ndarray | None = None
    groups: np.ndarray | None = None
    whole: np.ndarray | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    pace: float = 1.0
    names: tuple[str, ...] = field(default=("latency",), init=False)

    @property
    def exact(self) -> bool:
        """Times go by counts: which channels are kept makes no difference."""
        return self.segments.exact

    @property
    def convex(self) -> np.ndarray:
        return np.zeros(1, bool)

    def paced(self, factor: float) -> Predicted:
        """The same on a machine that takes so many times as long for everything."""
        fitted = replace(self.fitted, scales=self.fitted.scales * factor, base=self.fitted.base * factor)
        return replace(self, fitted=fitted, pace=self.pace * factor)

    def within(self, analysis: Analysis) -> Predicted:
        """The same for the groups that are free in an analysis, without the residual branches that are gone from it
        (`Analysis.without`); other groups stay whole.

        Of a segment whose contraction is gone, what other operations write is left by the share of them that still run.
        """
        known = self.sizes or tuple((group.id, group.size) for group in analysis.full.free)
        if not analysis.dropped and len(known) == len(analysis.free):
            return self
        places = {name: place for place, (name, _) in enumerate(known)}
        left = np.array([name not in analysis.dropped for name in self.segments.anchors])
        beside = np.zeros((2, len(self.segments)))
        for name, segment in self.segments.places.items():
            if name != self.segments.anchors[segment]:
                beside[:, segment] += (name not in analysis.dropped, 1)
        shares = np.where(beside[1] > 0, beside[0] / np.maximum(beside[1], 1), 1.0)
        owners = self.segments.owners
        return replace(
            self,
            alive=np.where(self.segments.features == BESIDE, shares[owners], left[owners]),
            groups=np.array([places[group.id] for group in analysis.free], np.int64),
            whole=np.array([size for _, size in known], np.float64),
        )

    def by_segment(self, kept: np.ndarray) -> np.ndarray:
        """Seconds of each segment: float array ``[segments]``; what the whole takes beside them is not among them."""
        kept = self._all(kept)
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
        kept = self._all(kept)
        found = self.segments.slope(self._rates(kept) * _NANO, kept)
        return (found if self.groups is None else found[self.groups])[None]

    def _all(self, kept: np.ndarray) -> np.ndarray:
        """What every group of the whole model keeps; those in branches that are gone count nowhere."""
        if self.groups is None or self.whole is None:
            return kept
        found = self.whole.copy()
        found[self.groups] = kept
        return found

    def _rates(self, kept: np.ndarray) -> np.ndarray:
        """Seconds for one unit of each term: float array ``[terms]``."""
        rates = self.fitted.rates(misaligned(self.segments, kept)) * self.fitted.scales[:, None]
        each = rates[self.segments.owners, self.segments.features]
        return np.asarray(each if self.alive is None else each * self.alive)
