"""Shapes of common operators without running their meta kernels, which take most of an analysis otherwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["QuickShapes", "quick"]

_UNARY = frozenset(
    """
    relu relu6 hardtanh silu gelu hardswish hardsigmoid sigmoid tanh leaky_relu elu mish softmax dropout
    """.split()
)
_BINARY = {"add", "sub", "mul", "div"}
_NORMS = {"batch_norm", "layer_norm", "group_norm"}


_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


def quick(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | tuple[Tensor, ...] | None:
    """The result of an operator whose shape is plain, in the dtype of its first argument; None where that is not sure.

    Args:
        name: of the operator without namespace; a trailing underscore means in place.
    """
    if not args or type(args[0]) is not Tensor or args[0].device.type != "meta" or not args[0].is_floating_point():
        return None
    x, plain = args[0], name.removesuffix("_")
    if plain in _UNARY:
        if plain == "softmax" and (kwargs or len(args) > 2):  # it may change the dtype
            return None
    elif plain in _BINARY:
        other = args[1] if len(args) > 1 else None
        if not (type(other) in (int, float) or _spreads(other, x)) or "rounding_mode" in kwargs:
            return None
    elif plain == "adaptive_avg_pool2d":
        return x.new_empty((*x.shape[:-2], *args[1])) if x.dim() in (3, 4) else None
    elif name in _RECURRENT:
        return _recurrent(x, args)
    elif plain in _NORMS:
        if not _affine_fits(plain, x, args):
            return None
    else:
        return None
    return x if name.endswith("_") else torch.empty_like(x)


def _spreads(other: Any, x: Tensor) -> bool:
    """Whether a tensor broadcasts to the shape of `x`, in its dtype."""
    if not isinstance(other, Tensor) or not other.is_meta or other.dtype != x.dtype or other.dim() > x.dim():
        return False
    return all(n in (1, m) for n, m in zip(reversed(other.shape), reversed(x.shape), strict=False))


def _affine_fits(name: str, x: Tensor, args: tuple[Any, ...]) -> bool:
    """Whether a norm's parameters have the size that its input asks for (else its own kernel says what is wrong)."""
    if name == "batch_norm":
        return x.dim() > 1 and all(t is None or t.shape == x.shape[1:2] for t in args[1:5])
    if name == "layer_norm":
        shape = tuple(args[1])
        return tuple(x.shape[x.dim() - len(shape) :]) == shape and all(t is None or tuple(t.shape) == shape for t in args[2:4])
    return x.dim() > 1 and x.shape[1] % args[1] == 0 and all(t is None or t.shape == x.shape[1:2] for t in args[2:4])


def _recurrent(x: Tensor, args: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    """``(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)``: the kernels on meta
    tensors go step by step through the sequence."""
    if len(args) != 9 or not isinstance(args[2], (list, tuple)) or x.dim() != 3:  # packed sequences are another overload
        return None
    states = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    if args[2][0].shape[1] != x.shape[2]:  # the kernel says what is wrong
        return None
    width = states[0].shape[-1] * (2 if args[7] else 1)
    return x.new_empty((*x.shape[:2], width)), *(torch.empty_like(s) for s in states)


class QuickShapes(TorchDispatchMode):
    """Runs a model on meta tensors, taking shapes from `quick` where it knows them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = quick(func._schema.name.removeprefix("aten::"), args, kwargs)
        return func(*args, **kwargs) if found is None else found
