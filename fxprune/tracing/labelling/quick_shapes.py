"""Shapes of common operators without running their meta kernels, which take most of an analysis otherwise.

The column `shape` of the table of operators is a function of the arguments: a tensor like the result, or None where that is
not sure, or where the kernel is to say what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fxprune.labels.table import known, register
from fxprune.tracing.dispatch_mode import DispatchMode

__all__ = ["QuickShapes", "empty", "quick"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Shape = Callable[[Tensor, Args, Kwargs], "Tensor | tuple[Tensor, ...] | None"]

_UNARY = """
    relu relu6 hardtanh silu gelu hardswish hardsigmoid sigmoid tanh leaky_relu elu mish dropout neg abs exp sqrt rsqrt sin cos
"""


def quick(key: str, args: Args, kwargs: Kwargs) -> Tensor | tuple[Tensor, ...] | None:
    """The result of an operator whose shape is plain, in the dtype of its first argument; None where that is not sure.

    Args:
        key: of the operator; a trailing underscore means in place.
    """
    entry = known(key)
    if entry is None or entry.shape is None or not args:
        return None
    x = args[0][0] if key == "aten::cat" and args[0] else args[0]
    if type(x) is not Tensor or x.device.type != "meta" or not x.is_floating_point():
        return None
    found: Tensor | tuple[Tensor, ...] | None = entry.shape(x, args, kwargs)
    return found


def empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    """``like.new_empty(shape)`` of a meta tensor, past PyTorch's implementation in Python."""
    return torch.empty(shape, dtype=like.dtype, device="meta")


class QuickShapes(DispatchMode):
    """Runs a model on meta tensors, taking shapes from `quick` where it knows them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = quick(func._schema.name, args, kwargs)
        return func(*args, **kwargs) if found is None else found


# -- elementwise -------------------------------------------------------------------------------------------------------


def _like(x: Tensor) -> Tensor:
    """`torch.empty_like`, whose meta kernel is slow."""
    if x.is_contiguous():
        return empty(x, x.shape)
    step = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1):
        if stride != step:
            return torch.empty_like(x)
        step *= size
    return x.new_empty_strided(x.shape, x.stride())  # its entries fill its memory, in another order


def _unary(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor:
    return _like(x)


def _softmax(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    return None if kwargs or len(args) > 2 else _like(x)  # it may change the dtype


def _binary(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    other = args[1] if len(args) > 1 else None
    if "rounding_mode" in kwargs:
        return None
    if type(other) in (int, float) or _spreads(other, x):
        return _like(x)
    if isinstance(other, Tensor) and _spreads(x, other) and x.is_contiguous() and _plainly_contiguous(other):
        return _like(other)
    return None


def _spreads(other: Any, x: Tensor) -> bool:
    """Whether a tensor broadcasts to the shape of `x`, in its dtype."""
    if not isinstance(other, Tensor) or not other.is_meta or other.dtype != x.dtype or other.dim() > x.dim():
        return False
    return _broadcasts(other.shape, x.shape)


def _broadcasts(small: Sequence[int], large: Sequence[int]) -> bool:
    return all(n in (1, m) for n, m in zip(reversed(small), reversed(large), strict=False))


def _in_place(shape: Shape) -> Shape:
    """The same of the operator that writes into its first argument."""

    def written(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
        found = shape(x, args, kwargs)
        return x if isinstance(found, Tensor) and found.shape == x.shape else None

    return written


# -- norms, pooling, reductions ----------------------------------------------------------------------------------------


def _batch_norm(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    fits = x.dim() > 1 and all(t is None or t.shape == x.shape[1:2] for t in args[1:5])
    return _like(x) if fits else None


def _layer_norm(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    shape = tuple(args[1])
    fits = tuple(x.shape[x.dim() - len(shape) :]) == shape and all(t is None or tuple(t.shape) == shape for t in args[2:4])
    return _like(x) if fits else None


def _group_norm(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    fits = x.dim() > 1 and x.shape[1] % args[1] == 0 and all(t is None or t.shape == x.shape[1:2] for t in args[2:4])
    return _like(x) if fits else None


def _adaptive_pool(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    return empty(x, (*x.shape[:-2], *args[1])) if x.dim() in (3, 4) else None


def _reduced(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    """``mean(x, dims, keepdim)``."""
    keep = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    if len(args) not in (2, 3) or kwargs.keys() - {"keepdim"} or not isinstance(args[1], (list, tuple)) or not args[1]:
        return None
    gone = {d % x.dim() for d in args[1]} if all(-x.dim() <= d < x.dim() for d in args[1]) else None
    if gone is None or len(gone) < len(args[1]):
        return None
    return empty(x, [1 if d in gone else n for d, n in enumerate(x.shape) if keep or d not in gone])


# -- contractions ------------------------------------------------------------------------------------------------------


_CONVOLUTION: Args = (None, 1, 0, 1, 1)  # the defaults after the weight


def _convolution(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    """``(input, weight, bias, stride, padding, dilation, groups)``."""
    weight, bias, stride, padding, dilation, groups = args[1:] + _CONVOLUTION[len(args) - 2 :]
    space = x.dim() - 2
    if kwargs or isinstance(padding, str) or weight.dim() != x.dim() or space < 1 or weight.dtype != x.dtype:
        return None
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups or (bias is not None and len(bias) != len(weight)):
        return None
    stride, padding, dilation = (
        [v] * space if isinstance(v, int) else list(v) * (space if len(v) == 1 else 1) for v in (stride, padding, dilation)
    )
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    if min(sizes) < 1 or not _plainly_contiguous(x) or not _plainly_contiguous(weight):
        return None
    return empty(x, (x.shape[0], weight.shape[0], *sizes))


def _plainly_contiguous(x: Tensor) -> bool:
    """Contiguous, and in that order alone, so that what is made of it is, too."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.shape[2] == x.shape[3] == 1
    return x.is_contiguous()


def _linear(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    weight, bias = args[1], args[2] if len(args) > 2 else kwargs.get("bias")
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1] or weight.dtype != x.dtype:
        return None
    if bias is not None and (bias.dtype != x.dtype or bias.shape != weight.shape[:1]):
        return None
    return empty(x, (*x.shape[:-1], weight.shape[0]))


def _matmul(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    other = args[1]
    if other.dtype != x.dtype or x.dim() < 2 or other.dim() not in (2, x.dim()) or x.shape[-1] != other.shape[-2]:
        return None
    if other.dim() > 2 and other.shape[:-2] != x.shape[:-2]:
        return None
    return empty(x, (*x.shape[:-1], other.shape[-1]))


def _attention(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    """``(query, key, value, mask, dropout, causal, *, scale, enable_gqa)``."""
    key, value = args[1:3]
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    if x.dim() < 3 or kwargs.get("enable_gqa") or not x.dtype == key.dtype == value.dtype:
        return None
    if x.shape[:-2] != key.shape[:-2] or key.shape[:-1] != value.shape[:-1] or x.shape[-1] != key.shape[-1]:
        return None
    scores = (*x.shape[:-1], key.shape[-2])
    if mask is not None and not (mask.dim() <= x.dim() and _broadcasts(mask.shape, scores)):
        return None
    return empty(x, (*x.shape[:-1], value.shape[-1]))


def _recurrent(x: Tensor, args: Args, kwargs: Kwargs) -> tuple[Tensor, ...] | None:
    """``(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)``: the kernels on meta
    tensors go step by step through the sequence."""
    if len(args) != 9 or not isinstance(args[2], (list, tuple)) or x.dim() != 3:  # packed sequences are another overload
        return None
    states = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    if args[2][0].shape[1] != x.shape[2]:  # the kernel says what is wrong
        return None
    width = states[0].shape[-1] * (2 if args[7] else 1)
    return empty(x, (*x.shape[:2], width)), *(_like(s) for s in states)


def _cat(x: Tensor, args: Args, kwargs: Kwargs) -> Tensor | None:
    tensors, dim = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if not -x.dim() <= dim < x.dim():
        return None
    dim %= x.dim()
    for t in tensors:
        if t.dim() != x.dim() or t.dtype != x.dtype or not t.is_meta:
            return None
        if t.dim() in (4, 5) and t.stride(1) <= t.stride(-1) and not _plainly_contiguous(t):  # channels last, maybe
            return None
        if any(n != m for d, (n, m) in enumerate(zip(t.shape, x.shape, strict=True)) if d != dim):
            return None
    return empty(x, [sum(t.shape[dim] for t in tensors) if d == dim else n for d, n in enumerate(x.shape)])


for _names, _shape in (
    (_UNARY, _unary),
    ("add sub mul div", _binary),
    ("softmax", _softmax),
    ("batch_norm", _batch_norm),
    ("layer_norm", _layer_norm),
    ("group_norm", _group_norm),
):
    register("shape", [_names], _shape)
    register("shape", [f"{name}_" for name in _names.split()], _in_place(_shape))
register("shape", ["conv1d conv2d conv3d"], _convolution)
register("shape", ["lstm gru rnn_tanh rnn_relu"], _recurrent)
register("shape", ["mean amax amin"], _reduced)
register("shape", ["adaptive_avg_pool2d"], _adaptive_pool)
register("shape", ["cat"], _cat)
register("shape", ["linear"], _linear)
register("shape", ["matmul"], _matmul)
register("shape", ["scaled_dot_product_attention"], _attention)
