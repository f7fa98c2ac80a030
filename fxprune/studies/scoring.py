"""The scores of several criteria on one model: by group of coupled channels, or by layer."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group, Member
from fxprune.criteria.base import Criterion
from fxprune.criteria.random_scores import Random
from fxprune.criteria.scoring import prepare_together, scores_of, without_normalization
from fxprune.criteria.weights import WeightCriterion
from fxprune.errors import InputError, NothingToPrune, shown
from fxprune.inputs.acceptance import check_finite, check_values
from fxprune.state import named_tensors
from fxprune.studies.distribution import output_axes

__all__ = ["Observation", "Scored", "Scoring", "Unit", "check_unit", "units_of", "with_noise"]

Unit = Literal["group", "layer"]


@dataclass(frozen=True, eq=False)
class Observation:
    """What criteria that observe the model are shown; see `fxprune.prune`."""

    data: Iterable[Any] | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    batches: int | None = None

    def for_passes(self, count: int) -> Observation:
        """One that gives the same batches so many times: an iterator is used up after one pass, and a shuffled loader begins
        with other batches the second time."""
        if count == 1 or self.data is None or (self.batches is None and not isinstance(self.data, Iterator)):
            return self
        return replace(self, data=list(itertools.islice(self.data, self.batches)))


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one criterion.

    Attributes:
        raw: ``{unit: scores [channels]}`` without normalisation between units.
        ranked: the same as the criterion ranks units against each other.
    """

    raw: dict[str, np.ndarray] = field(default_factory=dict)
    ranked: dict[str, np.ndarray] = field(default_factory=dict)


def units_of(analysis: Analysis, unit: Unit) -> list[Group]:
    """What is ranked: the groups that may be pruned; or the filters of each convolution and linear layer, on their own.

    Raises:
        NothingToPrune: there are none.
    """
    if unit == "group":
        found = analysis.free
    else:
        found = []
        for name, axis in output_axes(analysis).items():
            size = analysis.traced.tensors[name].shape[axis]
            if size > 1:
                found.append(Group(name, size, (Member(name, axis, np.arange(size)[:, None], "producer"),)))
    if not found:
        raise NothingToPrune(f"the model has no {unit} of channels to rank")
    return found


def check_unit(criterion: Callable[..., Any], name: str, unit: Unit) -> None:
    """Of a layer on its own only the weight is known.

    Raises:
        InputError: the criterion looks at more than that.
    """
    if not isinstance(unit, str) or unit not in ("group", "layer"):
        raise InputError(f"unit must be 'group' or 'layer', not {shown(unit)}")
    if unit == "layer" and isinstance(criterion, Criterion) and not isinstance(criterion, (WeightCriterion, Random)):
        raise InputError(f"criterion {name!r} scores whole groups: leave out unit='layer', which is for criteria on weights")


@dataclass(frozen=True, eq=False)
class Scoring:
    """What is ranked, and what criteria see of a model before they rank it."""

    analysis: Analysis
    units: Sequence[Group]
    observation: Observation

    def __call__(self, criteria: Mapping[str, Callable[..., Any]], model: nn.Module) -> dict[str, Scored]:
        """Score all units by all criteria, which stay as they are; those that observe the model share one pass over the data.

        Raises:
            InputError: data are missing, or scores are not finite or of the wrong shape.
        """
        tensors = named_tensors(model)
        check_values(model, "fill it with random ones")
        check_finite(tensors, dict.fromkeys(member.name for unit in self.units for member in unit.members))
        criteria = {name: copy.copy(criterion) for name, criterion in criteria.items()}
        seen = self.observation
        prepare_together([*criteria.values()], model, self.analysis, seen.data, loss=seen.loss, batches=seen.batches)
        with torch.no_grad():
            return {name: self._scored(name, criterion, tensors) for name, criterion in criteria.items()}

    def _scored(self, name: str, criterion: Callable[..., Any], tensors: Mapping[str, Tensor]) -> Scored:
        plain = without_normalization(criterion)
        raw = {u.id: scores_of(plain, u, tensors, name) for u in self.units}
        if plain is criterion:
            return Scored(raw, raw)
        return Scored(raw, {u.id: scores_of(criterion, u, tensors, name) for u in self.units})


def with_noise(model: nn.Module, noise: float, seed: int) -> nn.Module:
    """A copy in which every weight is off by a relative error, normal with deviation `noise`."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.is_floating_point():
                error = torch.randn(parameter.shape, generator=generator).mul_(noise).add_(1)
                parameter.mul_(error.to(parameter.device, parameter.dtype))
    return twin
