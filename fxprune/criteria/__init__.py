"""Criteria: how much a channel matters. One criterion, one name in the table of `fxprune.criteria.registry`.

To add one to the package: a subclass of `WeightCriterion`, `ActivationCriterion` or `GradientCriterion` in a file here, a
line in that table, a test. To add one of your own: `register`, or pass any callable ``(group, tensors) -> scores``. Other
packages name theirs in the entry-point group ``fxprune.criteria``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fxprune.criteria.registry import names, register, resolve

# Names that take PyTorch along: a shell completes the names of criteria without it.
_LAZY = {
    "Criterion": "fxprune.criteria.base",
    "Tensors": "fxprune.criteria.base",
    "normalization_of": "fxprune.criteria.scoring",
    "prepare": "fxprune.criteria.scoring",
    "score_groups": "fxprune.criteria.scoring",
}

__all__ = ["Criterion", "Tensors", "names", "normalization_of", "prepare", "register", "resolve", "score_groups"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fxprune.criteria' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from fxprune.criteria.base import Criterion, Tensors
    from fxprune.criteria.scoring import normalization_of, prepare, score_groups
