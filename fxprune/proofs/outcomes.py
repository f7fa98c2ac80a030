"""What one call of a model does, and how far two such outcomes are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.inputs.examples import own_copy, random_like
from fxprune.proofs.errors import relative_error
from fxprune.proofs.trials import Trial
from fxprune.state import named_tensors
from fxprune.tracing.untouched import seed_all

__all__ = ["Outcome", "apart", "call"]

_NUMBERS = (bool, int, float, complex)


@dataclass
class Outcome:
    """What one call did.

    Attributes:
        output: what forward returned.
        gradients: parameter -> its gradient, of those that got one.
        buffers: buffer -> its value afterwards.
        changed: the buffers that the call wrote into.
    """

    output: Any
    gradients: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)


def call(model: nn.Module, trial: Trial, place: tuple[torch.device, torch.dtype | None], seed: int) -> Outcome:
    """Run a model once, in its own train() or eval(), on random inputs, under a seed."""
    args, named = own_copy(random_like(trial.inputs, *place, seed))
    model.train() if trial.training else model.eval()
    before = _buffers(model)
    seed_all(seed)
    with torch.set_grad_enabled(trial.gradients):
        output = model(*args, **named)
    gradients = _gradients(model, output, seed) if trial.gradients else {}
    after = _buffers(model)
    # A buffer of another size is a table that is made anew for it: what is recorded makes it in each call.
    same = {n for n, b in after.items() if n in before and (b.shape != before[n].shape or torch.equal(b, before[n]))}
    changed = after.keys() - same
    return Outcome(nested.map(lambda v: v.detach() if isinstance(v, Tensor) else v, output), gradients, after, changed)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {n: b.detach().clone() for n, b in named_tensors(model).items() if not isinstance(b, nn.Parameter)}


def _gradients(model: nn.Module, output: Any, seed: int) -> dict[str, Tensor]:
    """Gradients of a random sum of all that the model returns."""
    generator = torch.Generator().manual_seed(seed)
    total: Any = 0.0
    for tensor in nested.tensors(output):
        if tensor.is_floating_point():
            weights = torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
            if tensor.requires_grad:
                total = total + (tensor * weights).sum()
    known = {n: p for n, p in named_tensors(model, once=True).items() if isinstance(p, nn.Parameter) and p.requires_grad}
    if not isinstance(total, Tensor) or not known:
        return {}
    found = torch.autograd.grad(total, list(known.values()), allow_unused=True)
    return {name: g for name, g in zip(known, found, strict=True) if g is not None}


def apart(found: Outcome, own: Outcome) -> tuple[float, str]:
    """The largest relative difference of what a recording did from what the model did, and what differs."""
    worst = _outputs_apart(found.output, own.output)
    others = (_gradients_apart(found.gradients, own.gradients), _buffers_apart(found, own))
    worst = max((worst, *others), key=lambda pair: pair[0])
    return worst


def _outputs_apart(found: Any, own: Any) -> tuple[float, str]:
    form = _forms_apart(found, own, "the output")
    return (float("inf"), form) if form else (relative_error(found, own), "the output")


def _forms_apart(found: Any, own: Any, place: str) -> str:
    """What differs in the types of nested values and of what they hold; empty if nothing does."""
    if isinstance(own, Tensor) and isinstance(found, Tensor):
        if own.dtype != found.dtype:
            return f"{place} is {_short(found.dtype)} in the recording and {_short(own.dtype)} in the model"
        if own.shape != found.shape:
            return f"{place} has the shape {tuple(found.shape)} in the recording and {tuple(own.shape)} in the model"
        return ""
    if type(own) is not type(found):
        return f"{place} is a {type(found).__name__} in the recording and a {type(own).__name__} in the model"
    if isinstance(own, Mapping):
        if list(own) != list(found):
            return f"{place} has the keys {list(found)} in the recording and {list(own)} in the model"
        return next(filter(None, (_forms_apart(found[k], own[k], f"{place}[{k!r}]") for k in own)), "")
    if isinstance(own, (list, tuple)):
        if len(own) != len(found):
            return f"{place} has {len(found)} parts in the recording and {len(own)} in the model"
        pairs = enumerate(zip(found, own, strict=True))
        return next(filter(None, (_forms_apart(a, b, f"{place}[{i}]") for i, (a, b) in pairs)), "")
    if isinstance(own, (*_NUMBERS, str)):
        same = abs(own - found) <= 1e-6 * abs(own) if isinstance(own, float) else own == found
        return "" if same or own != own else f"{place} is {found!r} in the recording and {own!r} in the model"
    fields = ((getattr(found, n), getattr(own, n), n) for n in getattr(type(own), "__dataclass_fields__", ()))
    return next(filter(None, (_forms_apart(a, b, f"{place}.{n}") for a, b, n in fields)), "")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gradients_apart(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[float, str]:
    """Compared with the largest gradient, too: what should be zero is rounding."""
    for name in sorted(own.keys() ^ found.keys()):
        where = "the model alone" if name in own else "the recording alone"
        return float("inf"), f"{name} gets a gradient in {where}"
    floor = 1e-3 * max((float(g.abs().max()) for g in own.values() if g.numel()), default=0.0)
    errors = ((_error(found[n], own[n], floor), f"the gradient of {n}") for n in own)
    return max(errors, default=(0.0, ""))


def _buffers_apart(found: Outcome, own: Outcome) -> tuple[float, str]:
    """Of what either wrote into: the recording leaves out buffers that forward does not read."""
    for name in sorted(own.changed - found.buffers.keys()):
        return float("inf"), f"the model writes into the buffer {name}, and the recording does not"
    names = [n for n in own.buffers if n in found.buffers and n in own.changed | found.changed]
    return max(((relative_error(found.buffers[n], own.buffers[n]), f"the buffer {n}") for n in names), default=(0.0, ""))


def _error(found: Tensor, own: Tensor, floor: float) -> float:
    error = relative_error(found, own)
    if not own.numel() or not 0 < error < float("inf"):
        return error
    own, found = own.double(), found.double()
    finite = own.isfinite()
    scale = max(float(own[finite].abs().max()), floor, 1e-30)
    return float((own - found)[finite].abs().max()) / scale
