"""The certificate of a model in its own class: it computes what the slim graph does."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from fxprune.errors import PruneError
from fxprune.proofs.outcomes import Outcome, apart, call
from fxprune.proofs.precision import in_enough_precision
from fxprune.proofs.trials import Trial, batches_of, bound_axes, other_sizes, work_of
from fxprune.state import copied, named_tensors, place_of, replace_tensors
from fxprune.tracing.graphs.one_mode import MODES
from fxprune.tracing.tracer import Traced
from fxprune.tracing.untouched import twin_of, untouched

__all__ = ["compare"]

_SIZES = 2  # other sizes that are compared
_WORK = 50e9  # MACs that more than the first batches may take

Folded = Mapping[str, Tensor]


def compare(
    own: nn.Module, slim: fx.GraphModule, traced: Traced, folded: Folded, seed: int = 0
) -> tuple[dict[str, float], float]:
    """Errors of each call, and what counts as rounding: outputs, gradients and buffers of both, in both modes, on the batch of
    the example and another one, and on other sizes that both take.

    Args:
        own, slim: over the same weights, but for the factors of `folded`.
        folded: tensor -> by what its entries in `own` are larger.

    Raises:
        PruneError: the copy fails where the slim graph runs.
    """
    found: dict[str, float] = {}

    def prove(dtype: torch.dtype) -> tuple[float, ...]:
        found.clear()
        found.update(_errors((own, slim), traced, folded, seed, dtype))
        return (max(found.values(), default=0.0),)

    with untouched(own, slim, watch=False):
        _, tolerance = in_enough_precision(prove, own)
    return found, tolerance


def _errors(
    pair: tuple[nn.Module, fx.GraphModule], traced: Traced, folded: Folded, seed: int, dtype: torch.dtype
) -> Iterator[tuple[str, float]]:
    work = 0.0
    place = place_of(pair[0])[0], dtype
    wide = None if place_of(pair[0])[1] is dtype else dtype
    own, slim = _twins(pair, folded, wide)
    for trial, needed in _trials(traced):
        work += work_of(traced, trial)
        if not needed and work > _WORK:
            continue
        try:
            with redirect_stderr(io.StringIO()):  # on which a GraphModule writes where it failed
                there = call(slim, trial, place, seed)
        except Exception as error:
            if needed and not trial.training:
                raise PruneError(f"the slim graph itself fails in {trial.name}: {type(error).__name__}: {error}") from error
            own, slim = _twins(pair, folded, wide)
            continue
        try:
            here = call(own, trial, place, seed)
        except Exception as error:
            raise PruneError(f"its own code fails in {trial.name}: {type(error).__name__}: {error}") from error
        distance, what = apart(there, _unfolded(here, folded))
        yield (f"{trial.name}: {what}" if distance == float("inf") else trial.name), distance


def _twins(
    pair: tuple[nn.Module, fx.GraphModule], folded: Folded, wide: torch.dtype | None
) -> tuple[nn.Module, fx.GraphModule]:
    """Copies of both; in another precision, the factors are as precise as that."""
    own, slim = twin_of(pair[0], wide), twin_of(pair[1], wide)
    if wide is not None:
        here, there = named_tensors(own), named_tensors(slim)
        with torch.no_grad():
            replace_tensors(own, {id(here[n]): copied(here[n], there[n].detach() * f.to(there[n])) for n, f in folded.items()})
    return own, slim


def _trials(traced: Traced) -> Iterator[tuple[Trial, bool]]:
    """Calls, and whether they are made whatever they cost."""
    example = traced.example
    batch, others = batches_of(example, traced.inputs)
    for training in (False, True):
        mode = MODES[training]
        if mode in traced.refused:
            continue
        trial = Trial(f"{mode}, batch {batch}", example, training, gradients=training)
        if not training:
            yield trial, True
        for other, inputs in others[:1]:
            yield replace(trial, name=f"{mode}, batch {other}", inputs=inputs), not training or work_of(traced, trial) < _WORK
    if "evaluation" not in traced.refused:
        sizes = other_sizes(traced.example, bound_axes(traced))
        for (name, inputs), _ in zip(sizes, range(_SIZES), strict=False):
            yield Trial(f"evaluation, {name}", inputs), False


def _unfolded(outcome: Outcome, folded: Folded) -> Outcome:
    """The gradients that the tensors would get without their factors."""
    gradients = {n: g * folded[n].to(g) if n in folded else g for n, g in outcome.gradients.items()}
    return replace(outcome, gradients=gradients)
