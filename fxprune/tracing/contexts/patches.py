"""Patches of PyTorch's contexts through which model code tells the recorder of them: what changes is the region alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.grad_mode import enable_grad, inference_mode, no_grad, set_grad_enabled

from fxprune.errors import TraceError
from fxprune.tracing.contexts.entering import Contexts
from fxprune.tracing.contexts.regions import Autocast, Region
from fxprune.tracing.places import line_running

if TYPE_CHECKING:
    from fxprune.tracing.recorder import Recorder

__all__ = ["context_patches"]


def context_patches(recording: Callable[[], Recorder | None]) -> Iterator[tuple[Any, str, Any]]:
    """``(owner, name, what stands there while a model is recorded)``.

    Args:
        recording: the recorder of this thread, None where none records.
    """

    def contexts() -> Contexts | None:
        recorder = recording()
        return None if recorder is None else recorder.contexts

    for kind, change in _KINDS:
        yield from _with_block(kind, change, contexts)
    yield from _switch(contexts)
    for name, answer in _ANSWERS.items():
        yield torch, name, _answered(getattr(torch, name), answer, contexts)
    for owner, name in _REFUSED:
        if hasattr(owner, name):
            yield owner, name, _refused(getattr(owner, name), name, contexts)


def _casting(context: Any, region: Region) -> Region:
    state = Autocast(context.device, context.fast_dtype, context._enabled, context._cache_enabled)
    return region.with_autocast(context.device, state)


_KINDS: tuple[tuple[Any, Callable[[Any, Region], Region]], ...] = (
    (no_grad, lambda context, region: replace(region, grad=False)),
    (enable_grad, lambda context, region: replace(region, grad=True)),
    (inference_mode, lambda context, region: replace(region, inference=context.mode, grad=not context.mode)),
    (torch.amp.autocast_mode.autocast, _casting),
)
Found = Callable[[], Contexts | None]


def _with_block(kind: Any, change: Callable[[Any, Region], Region], contexts: Found) -> Iterator[tuple[Any, str, Any]]:
    enter, leave = kind.__enter__, kind.__exit__

    def __enter__(self: Any) -> Any:
        found = contexts()
        if found is None:
            return enter(self)
        found.enter(self, change(self, found.region))
        return self

    def __exit__(self: Any, *error: Any) -> Any:
        found = contexts()
        return None if found is not None and found.leave(self) else leave(self, *error)

    yield kind, "__enter__", __enter__
    yield kind, "__exit__", __exit__


def _switch(contexts: Found) -> Iterator[tuple[Any, str, Any]]:
    """``torch.set_grad_enabled``, which switches when it is made, and is a context too."""
    kind: Any = set_grad_enabled
    original = {name: getattr(kind, name) for name in ("__init__", "__call__", "__enter__", "__exit__")}

    def __init__(self: Any, mode: Any) -> None:
        found = contexts()
        if found is None:
            original["__init__"](self, mode)
            return
        self.mode, self.before = bool(mode), found.region
        found.gradients(self.mode)

    def __call__(self: Any, function: Any) -> Any:
        found = contexts()
        if found is None or not hasattr(self, "before"):
            return original["__call__"](self, function)
        found.region = self.before
        return super(kind, self).__call__(function)

    def __enter__(self: Any) -> None:
        found = contexts()
        if found is None or not hasattr(self, "before"):
            original["__enter__"](self)
        else:
            found.region = replace(found.region, grad=self.mode)

    def __exit__(self: Any, *error: Any) -> None:
        found = contexts()
        if found is None or not hasattr(self, "before"):
            original["__exit__"](self, *error)
        else:
            found.region = replace(found.region, grad=self.before.grad)

    for function in (__init__, __call__, __enter__, __exit__):
        yield kind, function.__name__, function


def _cast_dtype(found: Contexts, device: str, function: Any) -> Any:
    state = found.autocast_of(device)
    return function(device) if state is None else state.dtype


_ANSWERS: dict[str, Callable[..., Any]] = {
    "is_grad_enabled": lambda found, function: found.grad_enabled(),
    "is_inference_mode_enabled": lambda found, function: found.inference_enabled(),
    "is_autocast_enabled": lambda found, function, device="cuda": found.autocast_enabled(device),
    "is_autocast_cpu_enabled": lambda found, function: found.autocast_enabled("cpu"),
    "get_autocast_dtype": lambda found, function, device: _cast_dtype(found, device, function),
    "get_autocast_cpu_dtype": lambda found, function: _cast_dtype(found, "cpu", lambda device: function()),
    "get_autocast_gpu_dtype": lambda found, function: _cast_dtype(found, "cuda", lambda device: function()),
}


def _answered(function: Any, answer: Callable[..., Any], contexts: Found) -> Any:
    def asked(*args: Any, **kwargs: Any) -> Any:
        # PyTorch's own code computes the same whatever it is told: it gets to know what holds right now.
        own = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] == "torch"
        found = None if own else contexts()
        return function(*args, **kwargs) if found is None else answer(found, function, *args, *kwargs.values())

    return asked


_REFUSED: tuple[tuple[Any, str], ...] = (
    *((torch, n) for n in ("manual_seed", "seed", "set_rng_state", "set_autocast_enabled", "set_autocast_dtype")),
    *((torch, n) for n in ("set_autocast_cpu_enabled", "set_autocast_gpu_enabled", "set_default_device")),
    *((torch.random, n) for n in ("manual_seed", "seed", "set_rng_state", "fork_rng")),
    *((torch.cuda, n) for n in ("manual_seed", "manual_seed_all")),
)


def _refused(function: Any, name: str, contexts: Found) -> Any:
    def called(*args: Any, **kwargs: Any) -> Any:
        if contexts() is None:
            return function(*args, **kwargs)
        raise TraceError(
            f"forward calls {getattr(function, '__module__', None) or 'torch'}.{name} ({line_running()}), which changes the "
            "state of PyTorch for all that follows, and which a graph cannot hold: call it before the model, or, for noise "
            "that is always the same, draw it in __init__ and register it as a buffer"
        )

    return called
