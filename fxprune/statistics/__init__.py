"""Statistics of a model at work: one pass over data, for any number of criteria, in memory that does not grow with it.

>>> criteria = [resolve("hrank"), resolve("taylor")]                # doctest: +SKIP
>>> gather(model, analyze(model), criteria, loader, batches=5)      # doctest: +SKIP
>>> scores = criteria[0](group, tensors)                            # doctest: +SKIP
"""

from __future__ import annotations

from fxprune.statistics.gathering import gather
from fxprune.statistics.maps import Maps
from fxprune.statistics.running import Statistics

__all__ = ["Maps", "Statistics", "gather"]
