"""Criteria: how much a channel matters. One criterion, one name in the table of `fxprune.criteria.registry`.

To add one to the package: a subclass of `WeightCriterion`, `ActivationCriterion` or `GradientCriterion` in a file here, a
line in that table, a test. To add one of your own: `register`, or pass any callable ``(group, tensors) -> scores``. Other
packages name theirs in the entry-point group ``fxprune.criteria``.
"""

from __future__ import annotations

from fxprune.criteria.base import Criterion, Tensors
from fxprune.criteria.registry import names, register, resolve
from fxprune.criteria.scoring import normalization_of, prepare, score_groups

__all__ = ["Criterion", "Tensors", "names", "normalization_of", "prepare", "register", "resolve", "score_groups"]
