"""Shapes of what common torch.nn modules return, without calling them: a call on meta tensors takes most of its time on the
way to the kernel."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fxprune.labels.table import keys_of_layer, known, register
from fxprune.tracing.labelling.quick_shapes import empty

__all__ = ["quick_leaf"]


def quick_leaf(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What the module returns for one meta tensor, in its dtype; None where that is not sure: then its own code says, or
    says what is wrong.
    """
    if kwargs or len(args) != 1 or not isinstance(args[0], Tensor) or not args[0].is_meta:
        return None
    keys = keys_of_layer(type(module))
    # The class itself, no base: a subclass may do anything.
    entry = known(keys[0]) if keys and type(module).__module__.startswith("torch.nn.") else None
    shape = None if entry is None or entry.shape is None else entry.shape(module, args[0])
    return None if shape is None else empty(args[0], shape)


def _same(module: Any, x: Tensor) -> tuple[int, ...] | None:
    return tuple(x.shape)


def _batch_norm(module: Any, x: Tensor) -> tuple[int, ...] | None:
    fits = x.dim() in _DIMS[type(module)] and x.shape[1] == module.num_features
    states = (module.weight, module.bias, module.running_mean, module.running_var)
    return tuple(x.shape) if fits and all(t is None or t.shape == x.shape[1:2] for t in states) else None


def _conv(module: Any, x: Tensor) -> tuple[int, ...] | None:
    """``(in + 2 padding - dilation (kernel - 1) - 1) // stride + 1``, axis by axis."""
    dims = len(module.kernel_size)
    weight = module.weight
    fits = x.dim() == dims + 2 and x.shape[1] == weight.shape[1] * module.groups and weight.shape[0] % module.groups == 0
    named = (module.out_channels, module.in_channels) == (weight.shape[0], x.shape[1])
    if not (fits and named) or isinstance(module.padding, str) or x.dtype != weight.dtype:
        return None
    if module.bias is not None and module.bias.shape != weight.shape[:1]:
        return None
    settings = zip(x.shape[2:], module.padding, module.dilation, module.kernel_size, module.stride, strict=True)
    space = [(size + 2 * pad - spread * (kernel - 1) - 1) // stride + 1 for size, pad, spread, kernel, stride in settings]
    return (x.shape[0], weight.shape[0], *space) if min(space) > 0 else None


def _linear(module: Any, x: Tensor) -> tuple[int, ...] | None:
    weight = module.weight
    if x.shape[-1:] != weight.shape[1:] or x.dtype != weight.dtype:
        return None
    if module.bias is not None and module.bias.shape != weight.shape[:1]:
        return None
    return (*x.shape[:-1], weight.shape[0])


_DIMS = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
register(
    "shape",
    [
        """
        nn::Identity nn::Dropout nn::Dropout2d nn::CELU nn::ELU nn::GELU nn::Hardshrink nn::Hardsigmoid nn::Hardswish
        nn::Hardtanh nn::LeakyReLU nn::LogSigmoid nn::LogSoftmax nn::Mish nn::ReLU nn::ReLU6 nn::SELU nn::SiLU nn::Sigmoid
        nn::Softmax nn::Softplus nn::Softshrink nn::Softsign nn::Tanh nn::Tanhshrink
        """
    ],
    _same,
)
register("shape", ["nn::BatchNorm1d nn::BatchNorm2d nn::BatchNorm3d"], _batch_norm)
register("shape", ["nn::Conv1d nn::Conv2d nn::Conv3d"], _conv)
register("shape", ["nn::Linear"], _linear)
