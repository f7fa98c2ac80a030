"""No ratio of the channels, but all whose scores are low: for models that were trained to have such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fxprune.analysis.analysis import Analysis
from fxprune.planning.policies.base import Policy, Scores
from fxprune.planning.policies.ratio import beaten_by

__all__ = ["Threshold"]


@dataclass(frozen=True)
class Threshold(Policy):
    """Every channel whose score is below `ratio` goes.

    With ``normalization="max"`` that is a share of the highest score of its group; with ``"none"`` the score itself, as in
    Liu et al., "Network Slimming", ICCV 2017, for ``bn_scale`` and in Kang & Han, "SCP", ICML 2020, for ``bn_relu``.
    """

    def choose(self, analysis: Analysis, scores: Scores) -> dict[str, np.ndarray]:
        assert self.options.ratio is not None and not isinstance(
            self.options.ratio, Mapping
        )  # then the ratios by name are taken, whatever the scope
        below = {g.id: int((scores[g.id] < self.options.ratio).sum()) for g in analysis.free}
        beaten = beaten_by(scores, below, analysis.exclusive)
        found = {g.id: self.lowest(g, scores[g.id], below[g.id]) for g in analysis.free if g.id not in beaten}
        return {name: channels for name, channels in found.items() if len(channels)}
