"""What attention puts out without some of the channels that its products of queries and keys sum over."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.statistics.contract import Sums
from fxprune.statistics.products import Products

__all__ = ["power_of", "products_added"]

_NUMBERS = 2**23  # that one part of the work may hold


def products_added(products: Products, positions: int, generator: torch.Generator) -> Sums:
    """The sums of one batch: see `fxprune.criteria.surgeon.Surgeon`, whose ``G`` is ``gram``.

    Args:
        positions: so many queries are drawn; all images and heads share them.
    """
    q, k, a, v = (t.flatten(0, 1) for t in (products.queries, products.keys, products.weights, products.values))
    heads, channels, entries = products.queries.shape[1], v.shape[-1], q.shape[-2:]
    chosen = torch.randperm(q.shape[1], generator=generator)[:positions].to(q.device)
    q, a = q[:, chosen], a[:, chosen]
    gram = torch.zeros(entries[0], entries[0], dtype=torch.float64, device=q.device)
    size = max(1, _NUMBERS // (entries.numel() * channels * max(k.shape[1], len(chosen))))
    for part in range(0, len(q), size):
        gram += _gram(*(t[part : part + size] for t in (q, k, a, v)))
    out = (a @ v).unflatten(0, (-1, heads)).double()  # [images, heads, queries, entries]
    return {
        "gram": gram,
        "outputs": out.sum((0, 2)),
        "squares": out.square().sum(),
        "rows": torch.tensor(float(out.shape[0] * out.shape[2]), dtype=torch.float64, device=q.device),
    }


def _gram(q: Tensor, k: Tensor, a: Tensor, v: Tensor) -> Tensor:
    """``sum_i q_ic q_id <cov_i(k_c, v), cov_i(k_d, v)>`` as ``[channels, channels]``."""
    keys = k.flatten(2)
    both = a @ (keys.unsqueeze(3) * v.unsqueeze(2)).flatten(2)
    means = ((a @ keys).unsqueeze(3) * (a @ v).unsqueeze(2)).flatten(2)
    covariances = (both - means).view(*q.shape, v.shape[-1])  # [images x heads, queries, channels, multiplicity, entries]
    rows = (q.unsqueeze(-1) * covariances).sum(3).movedim(2, 0).flatten(1).double()
    return rows @ rows.T


def power_of(sums: Sums) -> float:
    """Of the attention's output: its squared distance from the mean of each head's entries."""
    return float((sums["squares"] - (sums["outputs"].square() / sums["rows"]).sum()).clamp_min(0))
