"""Whether a difference may be rounding: what the model itself makes of changes as small as rounding is the measure.

That both sides agree in float64 is not enough: code that asks for a dtype (``isinstance(h, torch.FloatTensor)``) may go
another way there, the one that was recorded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.proofs.outcomes import apart, call
from fxprune.proofs.trials import Trial
from fxprune.state import named_tensors
from fxprune.tracing.untouched import twin_of

__all__ = ["may_be_rounding"]

_TIMES = 30.0  # a difference may be so many times what small changes make
_TRIES = 2


def may_be_rounding(
    model: nn.Module, trial: Trial, place: tuple[torch.device, torch.dtype | None], seed: int, error: float
) -> bool:
    """Whether `error`, found in a call at the model's own precision, is about what rounding of its weights and inputs makes."""
    if error == float("inf"):
        return False
    own = call(twin_of(model), trial, place, seed)
    turns = (call(_nearly(model, seed + 1 + turn), trial, place, seed) for turn in range(_TRIES))
    return any(error <= _TIMES * apart(turn, own)[0] for turn in turns)


def _nearly(model: nn.Module, seed: int) -> nn.Module:
    """A copy of a model whose weights and inputs are changed by as much as rounding may."""
    other = twin_of(model, clone=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in named_tensors(other, once=True).values():
            tensor.copy_(_rounded(tensor, generator))
    other.register_forward_pre_hook(
        lambda module, args, kwargs: nested.map(lambda v: _rounded(v, generator), (args, kwargs)), with_kwargs=True
    )
    return other


def _rounded(value: Any, generator: torch.Generator) -> Any:
    """A floating-point tensor with each entry changed by as much as rounding may; all else as it is."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    step = torch.finfo(value.dtype).eps * (2 * torch.rand(value.shape, generator=generator) - 1)
    return value + value * step.to(value)
