"""How alike criteria are, how well they tell filters apart, and what the weights that they rank look like.

The questions are those of Huang et al., "Rethinking the Pruning Criteria for Convolutional Neural Network", NeurIPS 2021
(arXiv 2004.11627): do several criteria rank filters the same way (similarity), and are a criterion's scores far enough
apart to rank filters at all (applicability)? Their explanation, that the filters of a layer are nearly Gaussian, is tested too.

>>> found = study(model, ["l1", "l2", "fpgm", "fermat"])  # doctest: +SKIP
>>> print(found)                                          # doctest: +SKIP
>>> found.pair("l1", "l2").mean                           # doctest: +SKIP
"""

from __future__ import annotations

from fxprune.studies.aura_map import AuraMap, aura_map
from fxprune.studies.curves import Curve, Point, Sensitivity
from fxprune.studies.distribution import WeightTests, weight_tests
from fxprune.studies.measures import classifies
from fxprune.studies.outer import Search, search_ratios
from fxprune.studies.results import Applicability, Overlap, Pair, Study
from fxprune.studies.running import study
from fxprune.studies.trying import sensitivity

__all__ = [
    "Applicability",
    "AuraMap",
    "Curve",
    "Overlap",
    "Pair",
    "Point",
    "Search",
    "Sensitivity",
    "Study",
    "WeightTests",
    "aura_map",
    "classifies",
    "search_ratios",
    "sensitivity",
    "study",
    "weight_tests",
]
