"""Multiples of channels that a device likes, as ``round_to="auto"`` takes them from a table."""

from __future__ import annotations

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.profiling.designs import design
from fxprune.profiling.predicted import Predicted

__all__ = ["step_of"]

_STEPS = (1, 2, 4, 8, 16, 32)
_NEAR = 0.02  # of the time: a coarser multiple must win more than this over a finer one
_DESIGNS = 24
_OTHERS = 10_000  # numbers of designs that no table was learnt from


def step_of(predicted: Predicted, analysis: Analysis) -> int:
    """The smallest multiple at which kernels waste hardly more than at any other: two per cent of the time.

    Random widths are rounded to the nearest multiples; what is wasted there is the predicted time over that without blocks and
    without what misalignment costs.
    """
    sizes = np.array([group.size for group in analysis.free], np.float64)
    plain = [design(analysis, _OTHERS + 6 * number).astype(np.float64) for number in range(_DESIGNS)]  # mostly of multiple 1
    means = []
    for step in _STEPS:
        rounded = [np.clip(np.round(kept / step) * step, np.minimum(step, sizes), sizes) for kept in plain]
        means.append(float(np.mean([np.log(predicted.by_segment(r).sum() / predicted.smooth(r).sum()) for r in rounded])))
    best = min(means)
    return next(step for step, mean in zip(_STEPS, means, strict=True) if mean <= best + _NEAR)
