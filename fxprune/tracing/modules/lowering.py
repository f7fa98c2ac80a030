"""Modules whose code is replaced before tracing, so that the graph holds plain torch operations for them.

Each entry is a function with the module's own signature, written in operations that carry channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxprune.errors import TraceError
from fxprune.tracing.modules.attention import multihead_attention
from fxprune.tracing.modules.hooks import without_hooks

__all__ = ["is_leaf", "lowered_forward", "plain_leaf", "pure_leaf"]


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
