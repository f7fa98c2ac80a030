"""Softmax, attention and norms, written a second time: see `fxprune.proofs.references`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.proofs.references import Whole, mean_of, placed, reference, rows_of, spread_of

__all__ = ["arguments_of_layer"]

# -- softmax -----------------------------------------------------------------------------------------------------------


def _shares(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    above = x - x.sort(dim).values.narrow(dim, x.shape[dim] - 1, 1)
    return above, above.exp().sum(dim, keepdim=True)


@reference("softmax", "_softmax")
def softmax(whole: Whole, x: Tensor, dim: int, *unused: Any, dtype: Any = None, **settings: Any) -> Tensor:
    """Exponentials over their sum."""
    above, total = _shares(x if dtype is None else x.to(dtype), dim)
    return above.exp() / total


@reference("log_softmax", "_log_softmax")
def log_softmax(whole: Whole, x: Tensor, dim: int, *unused: Any, dtype: Any = None, **settings: Any) -> Tensor:
    """Less the logarithm of their sum."""
    above, total = _shares(x if dtype is None else x.to(dtype), dim)
    return above - total.log()


@reference("softmin")
def softmin(whole: Whole, x: Tensor, dim: int, *unused: Any, **settings: Any) -> Tensor:
    """The same of the negative."""
    return softmax(whole, 0 - x, dim, **settings)


@reference("scaled_dot_product_attention")
def attention(whole: Whole, query: Tensor, key: Tensor, value: Tensor, *given: Any, **settings: Any) -> Any:
    """Products, softmax, products; the scale is that of the original's heads. Causal masks are left to PyTorch."""
    settings = {**dict(zip(("attn_mask", "dropout_p", "is_causal"), given, strict=False)), **settings}
    attn_mask = settings.get("attn_mask")
    if settings.get("is_causal") or settings.get("dropout_p") or settings.get("enable_gqa"):
        return NotImplemented
    scale = settings.get("scale")
    scores = torch.einsum("...qd,...kd->...qk", query, key) * (whole.sizes[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype is torch.bool else scores + attn_mask
    return torch.einsum("...qk,...kd->...qd", softmax(whole, scores, -1), value)


# -- norms -------------------------------------------------------------------------------------------------------------


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _standard(x: Tensor, dims: Sequence[int], eps: float) -> Tensor:
    rows = rows_of(x, dims)
    middle = placed(mean_of(rows), x, dims, True)
    return (x - middle) / (placed(spread_of(rows, 0), x, dims, True) + eps).sqrt()


@reference("layer_norm")
def layer_norm(whole: Whole, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """Less the mean, over the deviation."""
    return _affine(_standard(x, range(-len(shape), 0), eps), weight, bias)


@reference("rms_norm")
def rms_norm(whole: Whole, x: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    """Over the root of the mean of squares."""
    dims = range(-len(shape), 0)
    power = placed(mean_of(rows_of(x * x, dims)), x, dims, True)
    return _affine(x / (power + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt(), weight, None)


@reference("group_norm")
def group_norm(whole: Whole, x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """Group by group, those of the original, over what is kept of each."""
    kept = np.arange(whole.sizes[1]) if whole.kept[1] is None else whole.kept[1]
    owner = torch.from_numpy(kept // (whole.sizes[1] // groups)).to(x.device)
    out = torch.zeros_like(x)
    for number in owner.unique().tolist():
        channels = (owner == number).nonzero().flatten()
        out[:, channels] = _standard(x[:, channels], range(1, x.dim()), eps)
    return _affine(out, *_columns(x, weight, bias))


@reference("batch_norm")
def batch_norm(whole: Whole, x: Tensor, running_mean: Any, running_var: Any, *given: Any, **settings: Any) -> Any:
    """By the statistics of the batch."""
    settings = {**dict(zip(("weight", "bias", "training", "momentum", "eps"), given, strict=False)), **settings}
    if not settings.get("training") and running_mean is not None:
        return NotImplemented
    dims = [d for d in range(x.dim()) if d != 1]
    return _affine(_standard(x, dims, settings.get("eps", 1e-5)), *_columns(x, settings.get("weight"), settings.get("bias")))


@reference("instance_norm")
def instance_norm(whole: Whole, x: Tensor, *given: Any, **settings: Any) -> Any:
    """By the statistics of each sample."""
    names = ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    settings = {**dict(zip(names, given, strict=False)), **settings}
    if not settings.get("use_input_stats", True):
        return NotImplemented
    plain = _standard(x, range(2, x.dim()), settings.get("eps", 1e-5))
    return _affine(plain, *_columns(x, settings.get("weight"), settings.get("bias")))


def _columns(x: Tensor, *tensors: Any) -> list[Any]:
    return [None if t is None else t.reshape(-1, *(1 for _ in range(x.dim() - 2))) for t in tensors]


# -- layers ------------------------------------------------------------------------------------------------------------

_LAYERS: dict[str, tuple[str, Callable[[Any, Mapping[str, Tensor]], dict[str, Any]]]] = {
    "LayerNorm": (
        "layer_norm",
        lambda m, t: {"shape": m.normalized_shape, "weight": t.get("weight"), "bias": t.get("bias"), "eps": m.eps},
    ),
    "RMSNorm": ("rms_norm", lambda m, t: {"shape": m.normalized_shape, "weight": t.get("weight"), "eps": m.eps}),
    "GroupNorm": (
        "group_norm",
        lambda m, t: {"groups": m.num_groups, "weight": t.get("weight"), "bias": t.get("bias"), "eps": m.eps},
    ),
    "Softmax": ("softmax", lambda m, t: {"dim": m.dim}),
    "Softmin": ("softmin", lambda m, t: {"dim": m.dim}),
    "LogSoftmax": ("log_softmax", lambda m, t: {"dim": m.dim}),
    "Softmax2d": ("softmax", lambda m, t: {"dim": -3}),
    "CosineSimilarity": ("cosine_similarity", lambda m, t: {"dim": m.dim, "eps": m.eps}),
    "PairwiseDistance": ("pairwise_distance", lambda m, t: {"p": m.norm, "eps": m.eps, "keepdim": m.keepdim}),
}


def arguments_of_layer(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The operator that a layer of torch.nn is, and its arguments beside the inputs; "" where that is not known."""
    name, arguments = _LAYERS.get(type(module).__name__, ("", None))
    return (name, arguments(module, tensors)) if arguments is not None else ("", {})
