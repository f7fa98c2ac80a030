"""Contexts that forward enters."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kinds.base import Case, net, rows

__all__ = ["CASES"]

HALF = torch.bfloat16


def _linear() -> nn.Module:
    return nn.Linear(16, 16)


def _grad_enabled(model: nn.Module, h: Tensor) -> Tensor:
    with torch.enable_grad():
        return h.relu()


def _autocast(model: Any, h: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=HALF):
        h = model.c(h).relu()
    return h.float()


def _autocast_off(model: Any, h: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=HALF):
        low = model.c(h)
        with torch.amp.autocast("cpu", enabled=False):
            high = model.c(low.float())
        return high + low.to(high.dtype)


def _autocast_of_cuda(model: Any, h: Tensor) -> Tensor:
    with torch.autocast("cuda", enabled=False):
        return model.c(h).relu()


def _autocast_attention(model: Any, h: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=HALF):
        q, k, v = model.qkv(h.reshape(h.shape[0], 1, 16).expand(-1, 4, -1)).chunk(3, dim=-1)
        found = F.scaled_dot_product_attention(q, k, v)
        weights = torch.einsum("bnc,bmc->bnm", q, k).softmax(-1)
    return (found.float() + (weights @ v).float()).mean(1)


@torch.autocast("cpu", dtype=HALF)
def _decorated(model: Any, h: Tensor) -> Tensor:
    return model.c(h).to(h.dtype)


def _by_dtype(model: Any, h: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=HALF):
        h = model.c(h)
        if h.dtype is torch.float32:
            h = h * 100
    return h.float()


def _autocast_without_gradients(model: Any, h: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=HALF, cache_enabled=False):
        scale = model.c(h).sigmoid()
    return h * scale.float()


def _mixed_inputs(model: Any, h: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=HALF):
        both = torch.cat([model.c(h), h], dim=1)
    return both[:, :16] + both[:, 16:]


def _kernels(model: Any, h: Tensor) -> Tensor:
    h = h.reshape(h.shape[0], 1, 1, 16)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return F.scaled_dot_product_attention(h, h, h).flatten(1)


def _recorded_function(model: Any, h: Tensor) -> Tensor:
    with torch.autograd.profiler.record_function("inner"):
        return model.c(h)


def _default_dtype(model: Any, h: Tensor) -> Tensor:
    torch.set_default_dtype(torch.float64)
    try:
        noise = torch.ones(h.shape[0], 16)
    finally:
        torch.set_default_dtype(torch.float32)
    return (h + noise).float()


def _raises_inside(model: Any, h: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            h = h + 1
            raise ValueError
    except ValueError:
        return h * model.c(h)


class _FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _foreign(mode: type[Any]) -> Any:
    def between(model: Any, h: Tensor) -> Tensor:
        with mode():
            return h.relu()

    return between


def _seeded(model: Any, h: Tensor) -> Tensor:
    torch.manual_seed(0)
    return h + torch.randn(h.shape[0], 16)


def _forked(model: Any, h: Tensor) -> Tensor:
    with torch.random.fork_rng():
        return h + torch.randn(h.shape[0], 16)


def _harmless_autocast_question(model: Any, h: Tensor) -> Tensor:
    return model.c(h) if torch.is_autocast_enabled("cpu") is not None else h


def _telling_autocast_question(model: Any, h: Tensor) -> Tensor:
    return model.c(h).to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else model.c(h)


CASES = [
    Case("a question about autocast that changes nothing", net(_harmless_autocast_question, c=_linear), rows),
    Case("a question about autocast that changes the path", net(_telling_autocast_question, c=_linear), rows),
    Case("enable_grad", net(_grad_enabled), rows),
    Case("autocast", net(_autocast, c=_linear), rows),
    Case("autocast off inside autocast", net(_autocast_off, c=_linear), rows),
    Case("autocast of another device, off", net(_autocast_of_cuda, c=_linear), rows),
    Case("attention under autocast", net(_autocast_attention, qkv=lambda: nn.Linear(16, 48)), rows),
    Case("a function decorated with autocast", net(_decorated, c=_linear), rows),
    Case("a branch on a dtype under autocast", net(_by_dtype, c=_linear), rows),
    Case("autocast without gradients", net(_autocast_without_gradients, c=_linear), rows),
    Case("cat of two dtypes under autocast", net(_mixed_inputs, c=_linear), rows),
    Case("kernels of attention", net(_kernels), rows),
    Case("record_function", net(_recorded_function, c=_linear), rows),
    Case("a default dtype for a while", net(_default_dtype), rows),
    Case("an exception leaves a context", net(_raises_inside, c=_linear), rows),
    Case("a foreign function mode", net(_foreign(_FunctionMode)), rows, refused="_FunctionMode, a mode that sees every"),
    Case("a foreign dispatch mode", net(_foreign(_DispatchMode)), rows, refused="_DispatchMode, a mode that sees every"),
    Case("seeds", net(_seeded), rows, refused="manual_seed .* changes the state of PyTorch"),
    Case("fork_rng", net(_forked), rows, refused="fork_rng .* changes the state of PyTorch"),
]
