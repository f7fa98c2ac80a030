"""The scores of all groups of an analysis, checked."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.criteria.base import Criterion, normalize
from fxprune.errors import InputError, NothingToPrune, PruneError, said, shown
from fxprune.inputs.acceptance import check_finite, check_values
from fxprune.options import Normalization
from fxprune.state import named_tensors
from fxprune.statistics.gathering import gather

__all__ = [
    "normalization_of",
    "prepare",
    "prepare_together",
    "score_groups",
    "scores_of",
    "without_normalization",
]


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


def score_groups(
    criterion: Callable[..., Any],
    model: nn.Module,
    analysis: Analysis,
    normalization: Normalization | None = None,
    **observed: Any,
) -> dict[str, np.ndarray]:
    """``{group id: scores [channels] in float64}`` of the free groups.

    Args:
        normalization: how the scores of groups are made comparable, whatever criterion gives them; None: as it does itself.
        observed: the arguments of `prepare`.

    Raises:
        NothingToPrune: there are none.
        InputError: data are missing, or the scores are not one finite number a channel.
    """
    if not analysis.free:
        raise NothingToPrune(analysis.nothing())
    tensors = named_tensors(model)
    check_finite(tensors, dict.fromkeys(member.name for group in analysis.free for member in group.members))
    name = getattr(criterion, "__name__", type(criterion).__name__)
    try:
        with _naming(name):
            prepare(criterion, model, analysis, **observed)
        found = criterion if normalization is None else without_normalization(criterion)
        with torch.no_grad():
            scores = {group.id: scores_of(found, group, tensors, name) for group in analysis.free}
    except InputError:
        check_values(model, "rank channels at random, criterion='random'")
        raise
    if normalization is None:
        return scores
    return {group: normalize(torch.from_numpy(s), normalization).numpy() for group, s in scores.items()}


def without_normalization(criterion: Callable[..., Any]) -> Callable[..., Any]:
    """The criterion, or one that has seen the same and gives its scores as they are."""
    if not isinstance(criterion, Criterion):
        return criterion
    plain = copy.copy(criterion)
    plain.normalization = "none"
    return plain


def normalization_of(criterion: Callable[..., Any], given: Normalization | None) -> Normalization:
    """How the scores of `score_groups` are normalised: as asked for, or as the criterion does; a plain function does not."""
    return given or (criterion.normalization if isinstance(criterion, Criterion) else "none")


def scores_of(criterion: Callable[..., Any], group: Group, tensors: Mapping[str, Tensor], name: str) -> np.ndarray:
    """Scores ``[channels]`` in float64 of one group.

    Raises:
        InputError: the criterion, known as `name`, fails, or gives anything else than one finite number a channel.
    """
    with _naming(name, f" on group {group.id!r}"):
        found = criterion(group, tensors)
    try:
        scores = found.detach().double().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found, np.float64)
    except Exception as error:  # of what the user's code gives, anything
        what = f"gave {shown(found)} for group {group.id!r}, not one number for each of its {group.size} channels"
        raise InputError(f"criterion {name} {what}") from error
    if scores.shape != (group.size,):
        what = f"gave scores of shape {scores.shape} for group {group.id!r} of {group.size} channels"
        raise InputError(f"criterion {name} {what}")
    if not np.isfinite(scores).all():
        raise InputError(f"criterion {name} gave scores that are not finite for group {group.id!r}: check the model's weights")
    return scores


@contextlib.contextmanager
def _naming(name: str, place: str = "") -> Iterator[None]:
    """Says of an error that it is the criterion's, and where it happened."""
    try:
        yield
    except PruneError:
        raise
    except Exception as error:
        raise InputError(f"criterion {name} failed{place}: {type(error).__name__}: {said(error)}") from error
