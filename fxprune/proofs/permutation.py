"""Permutation invariance: the groups are right if permuting coupled channels throughout the original changes nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fxprune.analysis.analysis import Analysis
from fxprune.inputs.examples import own_copy, random_like
from fxprune.proofs.errors import relative_error
from fxprune.proofs.occurrences import Occurrences
from fxprune.proofs.one_precision import in_one_precision
from fxprune.proofs.precision import precision_of
from fxprune.state import copied, place_of, replace_tensors
from fxprune.tracing.untouched import seed_all, twin_of

__all__ = ["permutation_error", "permute_channels"]


def permutation_error(analysis: Analysis, model: nn.Module, seed: int = 0, dtype: torch.dtype | None = None) -> float:
    """Relative change of the output of `model` when the channels of every free group are permuted, wherever they occur.

    Channels change places with those that play the same part in the model (`fxprune.proofs.occurrences`). The model runs
    in float32 or float64: `dtype`, or what `precision_of` says.
    """
    device, own = place_of(model)
    dtype = dtype or precision_of(model)
    wide = None if own is dtype else dtype
    original, permuted = twin_of(model, wide).eval(), twin_of(model, wide).eval()
    permute_channels(permuted, analysis, np.random.default_rng(seed))
    args, named = random_like(analysis.traced.example, device, dtype, seed)
    with torch.no_grad(), in_one_precision(analysis.traced.graph, dtype):
        seed_all(seed)
        expected = original(*own_copy(args), **own_copy(named))
        seed_all(seed)
        found = permuted(*own_copy(args), **own_copy(named))
    return relative_error(found, expected)


def permute_channels(model: nn.Module, analysis: Analysis, random: np.random.Generator) -> None:
    """Give a model tensors in which the channels of each group have changed places."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    data = {name: tensor.detach() for name, tensor in tensors.items()}
    occurrences = Occurrences(analysis)
    for group in analysis.free:
        order = np.arange(group.size)
        for part in occurrences.parts(group):
            order[part] = random.permutation(part)
        for member in group.members:
            index = np.arange(data[member.name].shape[member.axis])
            entries = occurrences.indices(group, member)
            index[entries.ravel()] = entries[order].ravel()
            picked = torch.from_numpy(index).to(data[member.name].device)
            data[member.name] = data[member.name].index_select(member.axis, picked)
    replace_tensors(model, {id(t): copied(t, data[name]) for name, t in tensors.items()})
