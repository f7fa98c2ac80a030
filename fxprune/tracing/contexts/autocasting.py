"""What ``torch.autocast`` does to the dtypes of operators, on the meta device, which has no autocast of its own."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, fx

from fxprune import nested
from fxprune.labels.table import find
from fxprune.tracing.contexts.regions import OUTSIDE, region_of
from fxprune.tracing.dispatch_mode import DispatchMode

__all__ = ["casting"]

# PyTorch knows which operators autocast casts; of these some run in float32, or in the widest dtype of their inputs, and all
# others in the lower precision (documentation of torch.amp, "Autocast Op Reference").
_WIDEST = frozenset(
    f"aten::{n}"
    for n in """
    stack cat index_copy addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add
    """.split()
)
_LOWER = frozenset(
    f"aten::{n}"
    for n in """
    conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution bmm mm baddbmm addmm addbmm
    linear matmul einsum linalg_vecdot linalg_multi_dot chain_matmul scaled_dot_product_attention mv addmv addr prelu
    lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell lstm gru rnn_tanh rnn_relu
    """.split()
)
_WHOLE = frozenset(f"aten::{n}" for n in "einsum lstm gru rnn_tanh rnn_relu".split())  # whose parts are what is cast


def casting(node: fx.Node, device: str) -> contextlib.AbstractContextManager[Any]:
    """A mode in which operators on meta tensors see and return the dtypes that they have at a node, on such a device."""
    region = region_of(node)
    if region is OUTSIDE:
        return _NOTHING
    state = next((a for a in region.autocast if a.device == device and a.enabled), None)
    return _NOTHING if state is None else _Casting(state.dtype, device)


_NOTHING = contextlib.nullcontext()


class _Casting(DispatchMode):
    def __init__(self, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.dtype, self.key = dtype, f"Autocast{device.upper()}"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        dtype = self._dtype_for(func, (args, kwargs))
        if dtype is not None:
            args, kwargs = nested.map(lambda v: _cast(v, dtype), (args, kwargs))
        elif find(func) is None and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)

    def _dtype_for(self, func: Any, inputs: Any) -> torch.dtype | None:
        name = func._schema.name
        if name not in _WHOLE and not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), self.key):
            return None
        if name in _LOWER:
            return self.dtype
        dtypes = {t.dtype for t in nested.tensors(inputs) if t.is_floating_point()}
        return None if name in _WIDEST and (len(dtypes) < 2 or torch.float32 not in dtypes) else torch.float32


def _cast(value: Any, dtype: torch.dtype) -> Any:
    cast = isinstance(value, Tensor) and value.is_floating_point() and value.dtype not in (dtype, torch.float64)
    return value.to(dtype) if cast else value
