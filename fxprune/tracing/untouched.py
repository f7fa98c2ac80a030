"""Models that run in a proof or a measurement come out as they were: copies over the same memory, and a watch over it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.state import copied, named_parts, named_tensors
from fxprune.tracing.dispatch_mode import DispatchMode
from fxprune.tracing.skeleton import copy_with
from fxprune.tracing.state.hook_state import put_back_after

__all__ = ["seed_all", "twin_of", "untouched"]

Module = TypeVar("Module", bound=nn.Module)

_CONTAINERS = (list, dict, set)
# Their schemas do not say that they write running statistics.
_WRITING = {"aten::native_batch_norm": (3, 4), "aten::cudnn_batch_norm": (3, 4), "aten::miopen_batch_norm": (3, 4)}


def twin_of(model: Module, dtype: torch.dtype | None = None, clone: bool = False) -> Module:
    """A copy of a model, hooks and all: parameters over the same memory, and buffers of its own.

    Args:
        dtype: of its floating-point tensors; None leaves each its own.
        clone: parameters have memory of their own, too.
    """
    twin: Any = copy_with(model, _cloned if clone else _twin_tensor)[0]
    if dtype is None:
        return twin
    return twin.double() if dtype is torch.float64 else twin.float()


def _twin_tensor(tensor: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        # Another object: gradients and hooks are its own.
        return nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
    return tensor.detach().clone()


def _cloned(tensor: Tensor) -> Tensor:
    return copied(tensor, tensor.detach().clone())


def seed_all(seed: int, devices: bool = True) -> None:
    """Seed whatever a forward may draw from: Python, NumPy, PyTorch.

    Args:
        devices: accelerators that are in use, too.
    """
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    # Not torch.manual_seed: for each kind of accelerator that is not in use yet, it keeps the call and its stack for later.
    torch.default_generator.manual_seed(seed)
    if devices:
        for name in ("cuda", "xpu"):
            backend = getattr(torch, name, None)
            if backend is not None and backend.is_initialized():
                backend.manual_seed_all(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)


@contextmanager
def untouched(*models: nn.Module, watch: bool = True) -> Iterator[None]:
    """Inside, this thread may run models that share memory or closures with `models`; afterwards those, and the random
    generators, are as they were.

    Args:
        watch: for writes into the memory of `models`, which takes some time for each operator.

    What code writes by other means than PyTorch's operators, attributes of modules and the Python objects that it names is not
    seen.
    """
    python, numpy = random.getstate(), np.random.get_state()
    attributes = [_Attributes(part) for model in models for _, part in named_parts(model, once=True)]
    memory = _Memory([t for model in models for t in named_tensors(model, once=True).values()])
    devices = sorted({t.device.index or 0 for t in memory.tensors if t.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), put_back_after(*models), memory if watch else nullcontext():
            yield
    finally:
        memory.restore()
        for one in attributes:
            one.restore()
        random.setstate(python)
        np.random.set_state(numpy)


class _Attributes:
    """The attributes of one module, to be put back; its mode is left to whoever sets it."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kept = module, dict(module.__dict__)
        self.contents = {k: v.copy() for k, v in self.kept.items() if type(v) in _CONTAINERS and v}

    def restore(self) -> None:
        now = self.module.__dict__
        for key in [k for k in now if k not in self.kept]:
            del now[key]
        for key, value in self.kept.items():
            if now.get(key, self) is not value and key != "training":
                now[key] = value
            before = self.contents.get(key, ()) if type(value) in _CONTAINERS else None
            if before is not None and not _same_items(value, before):
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(before)


def _same_items(now: Any, before: Any) -> bool:
    """Whether a container holds the very objects that it did."""
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        return all(k in before and before[k] is v for k, v in now.items())
    if isinstance(now, list):
        return all(a is b for a, b in zip(now, before, strict=True))
    return bool(now == before)


class _Watching(threading.local):
    """Of each thread, what watches its operators."""

    memory: _Memory | None = None


_WATCHING = _Watching()


class _Memory(DispatchMode):
    """Copies the memory of some tensors before an operator of this thread writes into it.

    One mode is enough for a thread, and each takes as long as a small operator: what is to be watched within what is watched
    already is told to the mode that is there.

    Attributes:
        watched: of the one that is the thread's mode, all that is to be watched.
    """

    supports_higher_order_operators = True

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.tensors = tensors
        self.known = {t.untyped_storage().data_ptr() for t in tensors if t.layout is torch.strided and not t.is_meta}
        self.kept: dict[int, tuple[Any, Any]] = {}
        self.watched: list[_Memory] = []

    def __enter__(self) -> Any:
        outer = _WATCHING.memory
        if outer is not None:
            outer.watched.append(self)
            return self
        _WATCHING.memory, self.watched = self, [self]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        outer = _WATCHING.memory
        if outer is not None and outer is not self:
            outer.watched.remove(self)
            return
        _WATCHING.memory = None
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        written = _WRITTEN.get(func)
        if written is None:
            written = _WRITTEN[func] = _written_by(func)
        if written:
            for place, name in written:
                value = args[place] if place < len(args) else (kwargs or {}).get(name)
                for memory in self.watched:
                    memory._keep(value)
        return func(*args, **(kwargs or {}))

    def _keep(self, value: Any) -> None:
        for tensor in nested.tensors(value):
            if tensor.layout is not torch.strided or tensor.is_meta:
                continue
            storage = tensor.untyped_storage()
            address = storage.data_ptr()
            if address in self.known and address not in self.kept:
                self.kept[address] = (storage, storage.clone())

    def restore(self) -> None:
        for storage, before in self.kept.values():
            storage.copy_(before)


_WRITTEN: dict[Any, tuple[tuple[int, str], ...]] = {}


def _written_by(func: Any) -> tuple[tuple[int, str], ...]:
    """Positions and names of the arguments that an operator writes into."""
    if not hasattr(func, "_schema"):
        return ()
    hidden = _WRITING.get(func._schema.name, ())
    return tuple(
        (place, a.name)
        for place, a in enumerate(func._schema.arguments)
        if place in hidden or (a.alias_info is not None and a.alias_info.is_write)
    )
