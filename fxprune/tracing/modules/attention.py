"""Attention of torch.nn in linear layers and products, so that heads and their size can change."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.errors import TraceError

__all__ = ["lowered_function", "multihead_attention"]


def multihead_attention(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`nn.MultiheadAttention`, as PyTorch calls it, in operations that carry channels.

    Args:
        module: an attribute ``attention_scale`` is the factor of its scores; without it, the root of the width of a head is.
    """
    if is_causal:
        _check_causal(module, attn_mask)
    batched, heads = query.dim() == 3, module.num_heads
    if not batched:
        query, key, value = (t.unsqueeze(0) for t in (query, key, value))
    elif not module.batch_first:
        query, key, value = (t.transpose(0, 1) for t in (query, key, value))
    q, k, v = _project(module, query, key, value)
    samples, length = q.shape[0], q.shape[1]
    if module.bias_k is not None and module.bias_v is not None:
        k, v = (
            torch.cat([t, b.transpose(0, 1).expand(samples, -1, -1)], 1) for t, b in ((k, module.bias_k), (v, module.bias_v))
        )
    q, k, v = _of_heads(module, q, k, v, samples)
    if module.add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
    mask = _mask(q, attn_mask, key_padding_mask, samples, heads)
    if mask is not None and (more := (module.bias_k is not None) + bool(module.add_zero_attn)):
        mask = F.pad(mask, (0, more))
    out, weights = _attend(module, (q, k, v), mask, need_weights)
    # In the order of PyTorch's own: a dropout that follows draws its numbers in the order in which entries lie in memory.
    out = out.permute(2, 0, 1, 3).reshape(length, samples, heads * module.head_dim)
    out = F.linear(out, module.out_proj.weight, module.out_proj.bias)
    if weights is not None:
        weights = weights.mean(dim=1) if average_attn_weights else weights
        weights = weights if batched else weights.squeeze(0)
    if not batched:
        out = out.squeeze(1)
    elif module.batch_first:
        out = out.transpose(0, 1)
    return out, weights


def functional_attention(*args: Any, **kwargs: Any) -> Any:
    """`F.multi_head_attention_forward`, as attention of one's own calls it, in the same operations."""
    given = inspect.signature(inspect.unwrap(F.multi_head_attention_forward)).bind(*args, **kwargs)
    given.apply_defaults()
    a = given.arguments
    module: Any = SimpleNamespace(
        head_dim=a["embed_dim_to_check"] // a["num_heads"],
        batch_first=False,
        out_proj=SimpleNamespace(weight=a["out_proj_weight"], bias=a["out_proj_bias"]),
        dropout=a["dropout_p"],
        _qkv_same_embed_dim=not a["use_separate_proj_weight"],
        **{name: a[name] for name in _SETTINGS},
    )
    passed = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")
    return multihead_attention(module, a["query"], a["key"], a["value"], **{name: a[name] for name in passed})


_SETTINGS = """
    num_heads bias_k bias_v add_zero_attn in_proj_weight in_proj_bias training q_proj_weight k_proj_weight v_proj_weight
    static_k static_v
""".split()


def lowered_function(target: Any) -> Callable[..., Any] | None:
    """The replacement of a function of torch.nn.functional, or None."""
    return functional_attention if target is F.multi_head_attention_forward else None


def _check_causal(module: nn.MultiheadAttention, mask: Tensor | None) -> None:
    if mask is None:
        raise TraceError(
            "attention is called with is_causal=True and no attn_mask, which PyTorch refuses in training: give it the mask"
        )
    if module.bias_k is not None or module.add_zero_attn:
        raise TraceError(
            "attention with add_bias_kv or add_zero_attn is called with is_causal=True, which says nothing of the entries that "
            "these add: give the mask alone"
        )


def _project(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (query, key, value)
    biases: Any = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    if not module._qkv_same_embed_dim:
        weights: Any = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    else:
        weights = module.in_proj_weight.chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))
    return q, k, v


def _of_heads(module: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, samples: Any) -> list[Tensor]:
    """``[samples, tokens, heads * head_dim]`` -> ``[samples, heads, tokens, head_dim]``.

    Keys and values that come in heads already, ``[samples * heads, tokens, head_dim]``, take the place of the projected.
    """
    heads, size, length, source = module.num_heads, module.head_dim, q.shape[1], k.shape[1]
    found = [q.reshape(samples, length, heads, size).transpose(1, 2)]
    for projected, name in ((k, "static_k"), (v, "static_v")):
        given = getattr(module, name, None)
        if given is None:
            found.append(projected.reshape(samples, source, heads, size).transpose(1, 2))
        else:
            found.append(given.reshape(samples, heads, given.shape[1], size))
    return found


def _attend(
    module: nn.MultiheadAttention, projected: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """``[samples, heads, length, head_dim]`` of queries, keys and values; and the weights, where they are needed."""
    q, k, v = projected
    scale = getattr(module, "attention_scale", None)
    if not need_weights and not module.dropout:
        said = {} if scale is None else {"scale": scale}
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **said), None
    scores = (q * (module.head_dim**-0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    weights = (scores if mask is None else scores + mask).softmax(dim=-1)
    weights = F.dropout(weights, module.dropout, module.training) if module.dropout else weights
    return weights @ v, weights if need_weights else None


def _mask(q: Tensor, attn_mask: Tensor | None, padding: Tensor | None, samples: Any, heads: int) -> Tensor | None:
    """One additive mask that broadcasts to ``[samples, heads, length, source]``."""
    mask = None
    if attn_mask is not None:
        mask = _additive(attn_mask, q)
        if mask.dim() == 3:
            mask = mask.reshape(samples, heads, mask.shape[1], mask.shape[2])
    if padding is not None:
        hidden = _additive(padding, q).unsqueeze(1).unsqueeze(1)
        mask = hidden if mask is None else mask + hidden
    return mask


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.value.dtype is torch.bool if hasattr(mask, "value") else mask.dtype is torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
    return mask
