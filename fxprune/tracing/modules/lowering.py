"""Modules whose code is replaced before tracing, so that the graph holds plain torch operations for them.

Each entry is a function with the module's own signature, written in operations that carry channels.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxprune.errors import TraceError
from fxprune.tracing.modules.hooks import without_hooks

__all__ = ["is_leaf", "lowered_forward", "lowered_function", "plain_leaf", "pure_leaf"]


def drop_path(module: Any, x: Tensor) -> Tensor:
    """Stochastic depth as dropout of one entry a sample: the same random numbers, and honest in both modes.

    timm's DropPath and torchvision's StochasticDepth (Huang et al., 2016) in one form.
    """
    p = module.p if hasattr(module, "p") else module.drop_prob
    if not p:
        return x
    if not getattr(module, "scale_by_keep", True):
        raise TraceError("stochastic depth with scale_by_keep=False has no plain torch form: set it to True")
    rows = 1 if getattr(module, "mode", "row") == "batch" else x.shape[0]
    return x * F.dropout(x.new_ones((rows,) + (1,) * (x.ndim - 1)), p, module.training)


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
    """`nn.MultiheadAttention`, as PyTorch calls it, in linear layers and products, so that heads and their size can change."""
    if module.bias_k is not None or module.add_zero_attn or (is_causal and attn_mask is None):
        raise TraceError("nn.MultiheadAttention with add_bias_kv, add_zero_attn or a causal hint without a mask")
    batched, heads = query.dim() == 3, module.num_heads
    if not batched:
        query, key, value = (t.unsqueeze(0) for t in (query, key, value))
    elif not module.batch_first:
        query, key, value = (t.transpose(0, 1) for t in (query, key, value))
    q, k, v = _project(module, query, key, value)
    samples, length, source = q.shape[0], q.shape[1], k.shape[1]
    head_dim = module.head_dim
    q = q.reshape(samples, length, heads, head_dim).transpose(1, 2)
    k = k.reshape(samples, source, heads, head_dim).transpose(1, 2)
    v = v.reshape(samples, source, heads, head_dim).transpose(1, 2)
    mask = _mask(q, attn_mask, key_padding_mask, samples, heads)
    if need_weights:
        scores = (q * head_dim**-0.5) @ k.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(dim=-1)
        weights = F.dropout(weights, module.dropout, module.training) if module.dropout else weights
        out = weights @ v
    else:
        if module.dropout:
            weights = (q * head_dim**-0.5) @ k.transpose(-2, -1)
            weights = (weights if mask is None else weights + mask).softmax(dim=-1)
            out = F.dropout(weights, module.dropout, module.training) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        weights = None
    # In the order of PyTorch's own: a dropout that follows draws its numbers in the order in which entries lie in memory.
    out = out.permute(2, 0, 1, 3).reshape(length, samples, heads * head_dim)
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
        num_heads=a["num_heads"],
        head_dim=a["embed_dim_to_check"] // a["num_heads"],
        batch_first=False,
        bias_k=a["bias_k"],
        add_zero_attn=a["add_zero_attn"],
        in_proj_weight=a["in_proj_weight"],
        in_proj_bias=a["in_proj_bias"],
        out_proj=SimpleNamespace(weight=a["out_proj_weight"], bias=a["out_proj_bias"]),
        dropout=a["dropout_p"],
        training=a["training"],
        _qkv_same_embed_dim=not a["use_separate_proj_weight"],
        **{name: a[name] for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")},
    )
    passed = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")
    return multihead_attention(module, a["query"], a["key"], a["value"], **{name: a[name] for name in passed})


def lowered_function(target: Any, args: Any, kwargs: Any) -> Callable[..., Any] | None:
    """The replacement of a function of torch.nn.functional, or None."""
    if target is not F.multi_head_attention_forward:
        return None
    bias_k, bias_v, add_zero_attn = args[7:10] if len(args) > 9 else (None, None, True)
    plain = bias_k is None and bias_v is None and not add_zero_attn
    whole = kwargs.get("static_k") is not None or kwargs.get("static_v") is not None or len(args) > 18
    return functional_attention if plain and not whole else None


def _project(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (query, key, value)
    biases: Any = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    if not module._qkv_same_embed_dim:
        weights: Any = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    else:
        weights = module.in_proj_weight.chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))
    return q, k, v


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


# By qualified class name, so that no library is imported to ask.
_FORWARDS: dict[str, Callable[..., Any]] = {
    "timm.layers.drop.DropPath": drop_path,
    "torchvision.ops.stochastic_depth.StochasticDepth": drop_path,
    "torch.nn.modules.activation.MultiheadAttention": multihead_attention,
}


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one node of the graph: one of torch.nn with no parts, which runs its class's code on its own
    tensors.
    """
    if not type(module).__module__.startswith("torch.nn.") or isinstance(module, nn.MultiheadAttention) or module._modules:
        return False
    for value in module.__dict__.values():  # a forward of its own, or a weight that is computed for each call
        kind = type(value)
        if kind in _SHADOWS or issubclass(kind, (Tensor, fx.Proxy)):
            return False
    return True


_SHADOWS = frozenset({FunctionType, MethodType, functools.partial})


def lowered_forward(module: nn.Module) -> Callable[..., Any] | None:
    """The replacement of a module's forward, or None."""
    kind = type(module)
    return _FORWARDS.get(f"{kind.__module__}.{kind.__qualname__}")


def pure_leaf(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A module of class `kind` with the tensors and settings of `module`, an instance of a subclass."""
    leaf = plain_leaf(module, kind)
    leaf.__dict__["_modules"] = {}
    return leaf


def plain_leaf(module: nn.Module, kind: type[nn.Module] | None = None) -> nn.Module:
    """A copy of a module, over the same tensors, that runs the code of its class and nothing around it."""
    kind = kind or type(module)
    leaf = kind.__new__(kind)
    leaf.__dict__.update({k: v for k, v in module.__dict__.items() if type(v) not in _SHADOWS} | without_hooks(module))
    return leaf
