"""Criteria: how much a channel matters. One criterion, one name in the table of `fxprune.criteria.registry`.

To add one to the package: a subclass of `WeightCriterion`, `ActivationCriterion` or `GradientCriterion` in a file here, a
line in that table, a test. To add one of your own: `register`, or pass any callable ``(group, tensors) -> scores``. Other
packages name theirs in the entry-point group ``fxprune.criteria``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fxprune.criteria.base import Criterion, Tensors
from fxprune.criteria.registry import names, register, resolve
from fxprune.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from fxprune.analysis.analysis import Analysis

__all__ = ["Criterion", "Tensors", "names", "prepare", "register", "resolve"]


def prepare(
    criterion: Callable[..., Any], model: nn.Module, analysis: Analysis, data: Iterable[Any] | None = None, **options: Any
) -> None:
    """Show a criterion what it needs before it can score: the network, or the model at work on `data`.

    Does nothing for criteria that need neither. `options` are those of `fxprune.statistics.gather`.

    Raises:
        InputError: the criterion needs data and there are none.
    """
    if getattr(criterion, "needs_analysis", False):
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        criterion.prepare(analysis, tensors)  # type: ignore[attr-defined]
    if not getattr(criterion, "needs_data", False):
        return
    if data is not None:
        from fxprune.statistics import gather

        gather(model, analysis, [criterion], data, **options)  # type: ignore[list-item]
    elif not criterion.has_seen(analysis):  # type: ignore[attr-defined]
        name = type(criterion).__name__
        raise InputError(f"criterion {name} observes the model at work: pass data, an iterable of batches of inputs and labels")
