"""Where equal outputs prove little: they are no numbers, all equal, or do not depend on what was removed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.proofs.errors import relative_error
from fxprune.proofs.precision import tolerance_of
from fxprune.state import named_tensors
from fxprune.tracing.tracer import Traced

__all__ = ["hides_faults"]


def hides_faults(traced: Traced, model: nn.Module, own: Any, masked: Any) -> list[str]:
    """Why a difference could stay unseen on these weights, in sentences; empty where none of that is so.

    Args:
        own: what the model returns.
        masked: what it returns on the same inputs with the removed channels zeroed.
    """
    found = []
    tensors = [t for t in nested.tensors(own) if t.is_floating_point() and t.numel()]
    if not any(t.isfinite().any() for t in tensors):
        found.append("no entry of the output is a finite number")
    elif all(bool((t == t.flatten()[0]).all()) for t in tensors):
        found.append("all entries of the output are equal")
    elif relative_error(masked, own) <= 1e-3 * tolerance_of(torch.float32):
        found.append("the output does not depend on the channels that were removed")
    zero = _zero_weights(traced, model)
    if zero:
        more = f" and {len(zero) - 1} more" if len(zero) > 1 else ""
        found.append(f"the weight {zero[0]}{more} is zero or nearly so, and hides what comes before it")
    return found


def _zero_weights(traced: Traced, model: nn.Module) -> list[str]:
    """Weights none of whose entries counts: of layers what they call ``weight``, and all that the graph reads by itself."""
    tensors, layers = named_tensors(model), traced.names.modules
    names: list[str] = []
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            names.append(str(node.target))
        elif node.op == "call_module":
            names += [f"{node.target}.{n}" for n in layers[str(node.target)]._parameters if n.startswith("weight")]
    return [n for n in dict.fromkeys(names) if isinstance(tensors.get(n), nn.Parameter) and _small(tensors[n])]


def _small(tensor: Tensor) -> bool:
    return (
        bool(tensor.numel()) and tensor.is_floating_point() and float(tensor.detach().abs().max()) < tolerance_of(torch.float32)
    )
