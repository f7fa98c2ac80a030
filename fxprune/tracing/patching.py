"""Patches of Python and PyTorch through which model code reaches the recorder.

They hold while a model is recorded, and only for the thread that records: what another thread calls meanwhile does what it
always does. One model is recorded at a time; a second thread waits for the first.
"""

from __future__ import annotations

import builtins
import functools
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._device import _device_constructors

from fxprune.tracing.contexts.patches import context_patches
from fxprune.tracing.labelling.interpret import FACTORIES
from fxprune.tracing.standing_in import as_it_is, standing_in
from fxprune.tracing.state.randomness import DRAWS
from fxprune.tracing.values import whole
from fxprune.tracing.values.proxy import IndexProxy, Proxy, TensorProxy, proxies_in

if TYPE_CHECKING:
    from fxprune.tracing.recorder import Recorder

__all__ = ["call_module", "module_attribute", "patched", "unpatched"]

# Functions of plain numbers, and functions that make tensors, do not ask their arguments whether these are proxies.
_FUNCTIONS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (torch, (*FACTORIES, "meshgrid", "cartesian_prod")),
    (math, tuple(n for n in dir(math) if not n.startswith("_") and callable(getattr(math, n)))),
    (builtins, ("max", "min")),
)
_CHECKS = tuple(n for n in ("_check_with", "_check") if hasattr(torch, n))  # of conditions that must hold, as plain bools
# C functions that take sizes read an `IndexProxy` as a number at once; those of torch.nn.functional are found.
_SIZED = tuple(
    """
    reshape narrow tile broadcast_to roll select unflatten flatten chunk permute split_with_sizes repeat_interleave
    pixel_shuffle pixel_unshuffle
    """.split()
)
# C functions that PyTorch 2.6 gives no proxy that stands for a list of tensors, or for a size in a list.
_STRICT: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (torch, tuple("cat concat concatenate stack hstack vstack row_stack column_stack dstack".split())),
    (torch.fft, tuple(n for n, f in vars(torch.fft).items() if isinstance(f, BuiltinFunctionType))),
)

_LOCK = threading.RLock()


class _Thread(threading.local):
    """Of each thread, the recorder that records what it runs."""

    recorder: Recorder | None = None


_THREAD = _Thread()
_ABSENT: Any = object()
# What stands between traces: only here is it replaced, under the lock.
call_module = nn.Module._call_impl
module_attribute = as_it_is(nn.Module.__getattr__)


@contextmanager
def patched(recorder: Recorder) -> Iterator[None]:
    """Route module calls, parameters, ``self.training`` and functions of plain numbers to the recorder.

    Another thread that comes here waits until this one has left; within one thread, the inner recorder is served first.
    """
    with _LOCK:
        _device_constructors()  # it remembers functions as it finds them: let it find PyTorch's own
        outer, replaced = _THREAD.recorder, []
        try:
            for owner, name, value in _patches(recorder):
                replaced.append((owner, name, vars(owner).get(name, _ABSENT)))
                setattr(owner, name, value)
            _THREAD.recorder = recorder
            with standing_in(nn.Module, "__getattr__", _module_attribute), _uncompiled():
                yield
        finally:
            _THREAD.recorder = outer
            for owner, name, value in reversed(replaced):
                if value is _ABSENT:
                    delattr(owner, name)
                else:
                    setattr(owner, name, value)


def _uncompiled() -> AbstractContextManager[Any]:
    """Where functions that torch.compile made run as they are written."""
    if "torch._dynamo" not in sys.modules:  # there is none, and importing it takes seconds
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def unpatched() -> Iterator[None]:
    """Wait until no other thread records, and let none begin: code that names functions finds each where it belongs."""
    with _LOCK:
        yield


def _patches(recorder: Recorder) -> Iterator[tuple[Any, str, Any]]:
    """``(owner, name, what stands there while the recorder records)``."""
    # Not `__call__`, which only calls this: setting a special method of a class takes long with many subclasses.
    yield nn.Module, "_call_impl", _module_call
    yield nn.Module, "training", _TRAINING
    yield from context_patches(_active)
    for kind in _owners_of_forward(recorder):
        yield kind, "forward", _class_forward(vars(kind)["forward"])
    yield from whole.patches(_active)
    for owner, names in _FUNCTIONS:
        for name in names:
            yield owner, name, _through(getattr(owner, name))
    for owner, names in _STRICT:
        for name in names:
            yield owner, name, _handed(getattr(owner, name))
    for name in _CHECKS:
        yield torch, name, _decided(getattr(torch, name))
    yield builtins, "len", _length
    if recorder.proxy_class is IndexProxy:
        for owner, names in ((torch, _SIZED), (nn.functional, tuple(dir(nn.functional)))):
            for name in names:
                if isinstance(getattr(owner, name), BuiltinFunctionType):
                    yield owner, name, _through(getattr(owner, name))


def _active() -> Recorder | None:
    """The recorder that records what this thread runs now."""
    recorder = _THREAD.recorder
    return None if recorder is None or recorder.evaluating else recorder


def _module_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    recorder = _THREAD.recorder
    if recorder is None or recorder.evaluating:
        return call_module(module, *args, **kwargs)
    return recorder.calls.call(module, *args, **kwargs)


def _owners_of_forward(recorder: Recorder) -> set[type[nn.Module]]:
    """The classes of torch.nn that define the forward of a layer of the model."""
    kinds = {type(m) for m in recorder.names.modules.values() if not m._modules}
    owners = (next(c for c in kind.__mro__ if "forward" in vars(c)) for kind in kinds)
    return {c for c in owners if c is not nn.Module and c.__module__.startswith("torch.nn.")}


@functools.cache
def _class_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward of torch.nn that model code calls by itself: ``super().forward(x)``, ``self.conv.forward(x)``."""
    if forward in _WRAPPERS:
        return forward

    @functools.wraps(forward)
    def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        recorder = _THREAD.recorder
        if recorder is None or recorder.evaluating:
            return forward(module, *args, **kwargs)
        return recorder.calls.class_forward(forward, module, *args, **kwargs)

    _WRAPPERS.add(called)
    return called


def _module_attribute(module: nn.Module, name: str) -> Any:
    recorder = _THREAD.recorder
    if recorder is None or recorder.evaluating:
        return module_attribute(module, name)
    return recorder.calls.attribute(module, name)


def _training(module: nn.Module) -> Any:
    recorder = _THREAD.recorder
    if "training" not in module.__dict__:
        raise AttributeError(f"{type(module).__name__!r} object has no attribute 'training'")
    if recorder is None or recorder.evaluating:
        return module.__dict__["training"]
    return recorder.calls.training_flag(module)


_TRAINING = property(_training, lambda module, value: module.__dict__.__setitem__("training", value))


@functools.cache  # model code may keep such a function: it has to serve later recorders, and to do nothing without one
def _through(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that a recorder records where one of the arguments is a proxy."""
    if function in _WRAPPERS:  # a recorder within a recorder
        return function

    draws = function.__name__ in DRAWS

    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        recorder = _THREAD.recorder
        if recorder is None or recorder.evaluating or not (draws or proxies_in((args, kwargs))):
            return function(*args, **kwargs)
        return recorder.create_proxy("call_function", function, args, kwargs)

    _WRAPPERS.add(recorded)
    return recorded


@functools.cache
def _handed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose proxies get to their recorder, of whatever they are."""
    if function in _WRAPPERS:
        return function

    @functools.wraps(function)
    def handed(*args: Any, **kwargs: Any) -> Any:
        recorder = _THREAD.recorder
        if recorder is None or recorder.evaluating or not proxies_in((args, kwargs)):
            return function(*args, **kwargs)
        return recorder.torch_function(function, args, kwargs)

    _WRAPPERS.add(handed)
    return handed


@functools.cache
def _decided(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that wants plain bools: those that follow the inputs are asserted by the graph."""
    if function in _WRAPPERS:
        return function

    @functools.wraps(function)
    def asked(*args: Any, **kwargs: Any) -> Any:
        return function(*(bool(a) if type(a) in (Proxy, IndexProxy) else a for a in args), **kwargs)

    _WRAPPERS.add(asked)
    return asked


_LEN = builtins.len


def _length(value: Any) -> Any:
    """``len(x)``, which follows the inputs as ``x.shape[0]`` does: what Python makes of ``x.__len__()`` is a plain number."""
    recorder = _THREAD.recorder
    if type(value) is not TensorProxy or recorder is None or recorder.evaluating or not value.value.dim():
        return _LEN(value)
    return recorder.size(value, 0)


_WRAPPERS: set[Callable[..., Any]] = set()
