"""Statistics over channels, written a second time: what an operator of the original does with the channels that are kept.

Each is written in other primitive operations than the operator itself (sums, sorts, exponentials), takes the operator's own
arguments, and its settings (``eps``, a scale, the number of groups) as the original has them. A new one is one function with
the names of its operators. Norms, softmax and attention are in `fxprune.proofs.norm_references`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Whole", "mean_of", "placed", "reference", "reference_of", "rows_of", "spread_of"]


@dataclass(frozen=True)
class Whole:
    """What the first input of an operator was before channels went.

    Attributes:
        sizes: of its axes.
        kept: of each axis, the entries that remain, or None where all do.
    """

    sizes: tuple[int, ...]
    kept: tuple[np.ndarray | None, ...]


_REFERENCES: dict[str, Callable[..., Any]] = {}


def reference(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function ``(whole, *arguments)`` for operators of these names, as functions or as methods."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _REFERENCES.update(dict.fromkeys(names, function))
        return function

    return register


def reference_of(name: str) -> Callable[..., Any] | None:
    """The reference of an operator, or None."""
    return _REFERENCES.get(name)


# -- reductions --------------------------------------------------------------------------------------------------------


def _dims(x: Tensor, dim: Any) -> list[int]:
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return list(range(x.dim()))
    return sorted(d % max(x.dim(), 1) for d in ([dim] if isinstance(dim, int) else dim))


def rows_of(x: Tensor, dim: Any) -> Tensor:
    """The axes `dim` as one, the last."""
    dims = _dims(x, dim)
    others = [d for d in range(x.dim()) if d not in dims]
    return x.permute(*others, *dims).reshape(*(x.shape[d] for d in others), -1)


def placed(value: Tensor, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    """A value for each row of `rows_of`, with axes of one entry for those that went where `keepdim`."""
    return value.reshape([1 if d in _dims(x, dim) else s for d, s in enumerate(x.shape)]) if keepdim else value


def mean_of(rows: Tensor) -> Tensor:
    return rows.sum(-1) * (1.0 / rows.shape[-1])


def spread_of(rows: Tensor, correction: float) -> Tensor:
    """Variance, by the mean of squares around the mean."""
    around = rows - mean_of(rows).unsqueeze(-1)
    return (around * around).sum(-1) / max(rows.shape[-1] - correction, 0)


@reference("mean", "nanmean")
def mean(whole: Whole, x: Tensor, dim: Any = None, keepdim: bool = False, **settings: Any) -> Tensor:
    """The sum over the number of entries that are kept."""
    x = x if settings.get("dtype") is None else x.to(settings["dtype"])
    return placed(mean_of(rows_of(x, dim)), x, dim, keepdim)


def _variance(function: Callable[[Tensor], Tensor], both: bool) -> Callable[..., Any]:
    def found(whole: Whole, x: Tensor, *given: Any, **settings: Any) -> Any:
        settings = dict(settings)
        names = ("unbiased",) if given and isinstance(given[0], bool) else ("dim", "unbiased", "keepdim")
        settings.update(zip(names, given, strict=False))
        correction = settings.get("correction", 1.0)
        correction = 1.0 if correction is None else correction
        if "unbiased" in settings:
            correction = 1.0 if settings["unbiased"] else 0.0
        dim, keepdim = settings.get("dim"), settings.get("keepdim", False)
        rows = rows_of(x, dim)
        value = placed(function(spread_of(rows, correction)), x, dim, keepdim)
        return (value, placed(mean_of(rows), x, dim, keepdim)) if both else value

    return found


reference("var")(_variance(lambda v: v, both=False))
reference("std")(_variance(lambda v: v**0.5, both=False))
reference("var_mean")(_variance(lambda v: v, both=True))
reference("std_mean")(_variance(lambda v: v**0.5, both=True))


@reference("amax", "max")
def amax(whole: Whole, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The last of the sorted entries."""
    return placed(rows_of(x, dim).sort(-1).values[..., -1], x, dim, keepdim)


@reference("amin", "min")
def amin(whole: Whole, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The first of the sorted entries."""
    return placed(rows_of(x, dim).sort(-1).values[..., 0], x, dim, keepdim)


@reference("aminmax")
def aminmax(whole: Whole, x: Tensor, *, dim: Any = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Both of them."""
    return amin(whole, x, dim, keepdim), amax(whole, x, dim, keepdim)


@reference("prod")
def prod(whole: Whole, x: Tensor, dim: Any = None, keepdim: bool = False, **settings: Any) -> Tensor:
    """One entry after the other."""
    return placed(functools.reduce(torch.mul, rows_of(x, dim).unbind(-1)), x, dim, keepdim)


@reference("all")
def all_hold(whole: Whole, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """As many as there are."""
    rows = rows_of(x, dim)
    return placed((rows != 0).sum(-1) == rows.shape[-1], x, dim, keepdim)


@reference("any")
def any_holds(whole: Whole, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """More than none."""
    return placed((rows_of(x, dim) != 0).sum(-1) > 0, x, dim, keepdim)


@reference("count_nonzero")
def count_nonzero(whole: Whole, x: Tensor, dim: Any = None) -> Tensor:
    """One for each."""
    return (rows_of(x, dim) != 0).long().sum(-1)


@reference("logsumexp")
def logsumexp(whole: Whole, x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """By its formula, around the largest entry."""
    rows = rows_of(x, dim)
    most = rows.sort(-1).values[..., -1]
    return placed((rows - most.unsqueeze(-1)).exp().sum(-1).log() + most, x, dim, keepdim)


def _norm(rows: Tensor, p: Any) -> Tensor:
    p = 2.0 if p in (None, "fro") else float(p)
    size = torch.where(rows < 0, -rows, rows)
    if math.isinf(p):
        return size.sort(-1).values[..., -1 if p > 0 else 0]
    if p == 0:
        return (rows != 0).to(rows.dtype).sum(-1)
    return (rows * rows).sum(-1).sqrt() if p == 2 else (size**p).sum(-1) ** (1 / p)


@reference("norm")
def norm(whole: Whole, x: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, **settings: Any) -> Tensor:
    """``(sum |x|^p)^(1/p)``."""
    return placed(_norm(rows_of(x, dim), p), x, dim, keepdim)


@reference("vector_norm", "linalg_vector_norm")
def vector_norm(whole: Whole, x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **settings: Any) -> Tensor:
    """The same, under its name in torch.linalg."""
    return placed(_norm(rows_of(x, dim), ord), x, dim, keepdim)


# -- distances ---------------------------------------------------------------------------------------------------------


@reference("normalize")
def normalize(whole: Whole, input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
    """``x / max(|x|, eps)``."""
    size = placed(_norm(rows_of(input, dim), p), input, dim, True)
    return input * (1.0 / torch.where(size < eps, torch.full_like(size, eps), size))


@reference("cosine_similarity")
def cosine_similarity(whole: Whole, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """``a b / (max(|a|, eps) max(|b|, eps))``."""
    x1, x2 = torch.broadcast_tensors(x1, x2)
    a, b = rows_of(x1, dim), rows_of(x2, dim)
    return (a * b).sum(-1) / (_norm(a, 2).clamp_min(eps) * _norm(b, 2).clamp_min(eps))


@reference("pairwise_distance")
def pairwise_distance(whole: Whole, x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The norm of ``a - b + eps``."""
    return placed(_norm(x1 - x2 + eps, p), x1, -1, keepdim)


@reference("cdist")
def cdist(whole: Whole, x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """The norm of each row of one less each row of the other."""
    return _norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)
