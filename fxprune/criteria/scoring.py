"""The scores of all groups of an analysis, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.errors import InputError, NothingToPrune
from fxprune.state import named_tensors
from fxprune.statistics.gathering import gather

__all__ = ["prepare", "prepare_together", "score_groups"]


def prepare(
    criterion: Callable[..., Any], model: nn.Module, analysis: Analysis, data: Iterable[Any] | None = None, **options: Any
) -> None:
    """Show a criterion what it needs before it can score: the network, or the model at work on `data`.

    Does nothing for criteria that need neither. `options` are those of `fxprune.statistics.gather`.

    Raises:
        InputError: the criterion needs data and there are none.
    """
    prepare_together([criterion], model, analysis, data, **options)


def prepare_together(
    criteria: Sequence[Callable[..., Any]],
    model: nn.Module,
    analysis: Analysis,
    data: Iterable[Any] | None = None,
    **options: Any,
) -> None:
    """`prepare` several criteria: those that observe the model share one pass over `data`."""
    observing: list[Any] = []
    for criterion in criteria:
        if getattr(criterion, "needs_analysis", False):
            criterion.prepare(analysis, named_tensors(model))  # type: ignore[attr-defined]
        if getattr(criterion, "needs_data", False):
            observing.append(criterion)
    if observing and data is not None:
        gather(model, analysis, observing, data, **options)
        return
    for criterion in observing:
        if not criterion.has_seen(analysis):
            name = type(criterion).__name__
            raise InputError(
                f"criterion {name} observes the model at work: pass data, an iterable of batches of inputs and labels"
            )


def score_groups(criterion: Callable[..., Any], model: nn.Module, analysis: Analysis, **observed: Any) -> dict[str, np.ndarray]:
    """``{group id: scores [channels] in float64}`` of the free groups; `observed` are the arguments of `prepare`.

    Raises:
        NothingToPrune: there are none.
        InputError: data are missing, or the scores are not one finite number a channel.
    """
    if not analysis.free:
        raise NothingToPrune(analysis.nothing())
    prepare(criterion, model, analysis, **observed)
    tensors = named_tensors(model)
    with torch.no_grad():
        return {group.id: _checked(criterion(group, tensors), group) for group in analysis.free}


def _checked(found: Any, group: Group) -> np.ndarray:
    scores = found.detach().double().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found, np.float64)
    if scores.shape != (group.size,):
        raise InputError(f"the criterion gave scores of shape {scores.shape} for group {group.id!r} of {group.size} channels")
    if not np.isfinite(scores).all():
        raise InputError(f"the criterion gave scores that are not finite for group {group.id!r}: check the model's weights")
    return scores
