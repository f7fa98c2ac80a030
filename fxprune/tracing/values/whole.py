"""Calls that a graph keeps whole, one node each: code that cannot be recorded, or that does more than its operations say.

A custom `torch.autograd.Function` has a backward of its own, a function of TorchScript no code of Python. What such a call
does inside is labelled as it runs on the meta device, as with every node.
"""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.autograd.function import FunctionMeta, _SingleLevelFunction
from torch.utils.checkpoint import CheckpointFunction

from fxprune.errors import TraceError
from fxprune.tracing.places import line_running
from fxprune.tracing.values.checkpointed import checkpointed
from fxprune.tracing.values.proxy import proxies_in

__all__ = ["is_whole", "patches", "place_of_whole", "whole_at"]

_TRANSFORMS: tuple[tuple[Any, str], ...] = (
    (torch._functorch.apis, "vmap_impl"),
    (torch._functorch.eager_transforms, "_wrap_for_grad"),
    (torch._functorch.eager_transforms, "_jvp_with_argnums"),
    (torch._functorch.eager_transforms, "_wrap_functional_tensor"),
)
Active = Callable[[], Any]  # the recorder that records what runs now, or None


def is_whole(node: fx.Node) -> bool:
    """Whether a node is a call kept whole: nobody knows what it writes."""
    return node.target in _KEPT


def place_of_whole(target: Any) -> tuple[str, str] | None:
    """Module and name of what a node keeps whole, if that can be found there; None of all else. `whole_at` is the inverse."""
    place = _KEPT.get(target) if callable(target) else None
    try:
        return place if place and whole_at(*place) is target else None
    except (ImportError, AttributeError):
        return None


def whole_at(module: str, name: str) -> Callable[..., Any]:
    """What a node calls to keep the `torch.autograd.Function`, or the function of TorchScript, of that name whole."""
    found: Any = operator.attrgetter(name)(importlib.import_module(module))
    return _whole(getattr(found, "apply", found), name, module)


@functools.cache
def _whole(function: Callable[..., Any], name: str, module: str) -> Callable[..., Any]:
    """A function for a node: torch.fx asks each for its name and its module."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__name__ = name.rpartition(".")[2]
    call.__qualname__ = name
    call.__module__ = module if module.partition(".")[0] != "torch" else "fxprune"  # it would be looked for in torch
    _KEPT[call] = (module, name)
    return call


_KEPT: dict[Any, tuple[str, str]] = {}  # the function of a node -> where what it calls is found


# -- patches -----------------------------------------------------------------------------------------------------------


@functools.cache
def patches(active: Active) -> tuple[tuple[Any, str, Any], ...]:
    """``(owner, name, what stands there while a model is recorded)``."""
    return (
        (FunctionMeta, "__getattribute__", _asked_of_functions(active)),
        (torch, "finfo", _limits(active, torch.finfo)),
        (torch, "iinfo", _limits(active, torch.iinfo)),
        (torch._C.ScriptFunction, "__call__", _scripted(active)),
        (torch, "compile", _not_compiled(active)),
        *((owner, name, _transformed(active, getattr(owner, name))) for owner, name in _TRANSFORMS),
    )


def _asked_of_functions(active: Active) -> Any:
    """What `apply` of a function with a backward of its own finds; that is code in C, and may be held as a value."""

    def get(cls: Any, name: str) -> Any:
        recorder = active() if name in ("forward", "setup_context") else None
        found = type.__getattribute__(cls, name)
        if recorder is None:
            return found
        if name == "setup_context":
            return (lambda context, inputs, output: None) if _sets_up(cls) else found

        @functools.wraps(found)
        def recorded(*args: Any) -> Any:
            if not proxies_in(args):
                return found(*args)
            given = args if _sets_up(cls) else args[1:]  # past the context
            if cls is CheckpointFunction:  # which computes the same, and keeps less of it
                run, _, *rest = given
                return checkpointed(recorder, run, tuple(rest))
            return recorder.create_proxy("call_function", _whole(cls.apply, cls.__qualname__, cls.__module__), given, {})

        return recorded

    return get


def _sets_up(cls: Any) -> bool:
    """Whether the context is not given to ``forward``, but to a function of its own."""
    return type.__getattribute__(cls, "setup_context") is not vars(_SingleLevelFunction)["setup_context"].__func__


class _Limits(type):
    """The class of what stands for `torch.finfo`: that is in C, and reads a dtype at once."""

    active: Active
    original: Any

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        recorder = cls.active()
        if recorder is None or not proxies_in((args, kwargs)):
            return cls.original(*args, **kwargs)
        return recorder.create_proxy("call_function", cls.original, args, kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.original)


def _limits(active: Active, original: Any) -> Any:
    return _Limits(original.__name__, (), {"active": staticmethod(active), "original": original})


def _scripted(active: Active) -> Any:
    original = torch._C.ScriptFunction.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = active()
        if recorder is None or not proxies_in((args, kwargs)):
            return original(self, *args, **kwargs)
        *modules, name = self.qualified_name.split(".")
        return recorder.create_proxy("call_function", _whole(self, name, ".".join(modules[1:])), args, kwargs)

    return call


def _not_compiled(active: Active) -> Any:
    original = torch.compile

    @functools.wraps(original)
    def compiled(model: Any = None, **options: Any) -> Any:
        if active() is None:
            return original(model, **options)
        return (lambda function: function) if model is None else model

    return compiled


def _transformed(active: Active, original: Callable[..., Any]) -> Any:
    """Transforms of torch.func run a function on tensors of their own, which no graph holds."""

    @functools.wraps(original)
    def wrapping(*args: Any, **kwargs: Any) -> Any:
        if active() is not None and proxies_in((args, kwargs)):
            raise TraceError(
                f"the model transforms a function by torch.func (vmap, grad, jvp, functionalize; {line_running()}), which a "
                "graph cannot hold: write it in plain operations, or prune the other parts with submodules=[...]"
            )
        return original(*args, **kwargs)

    return wrapping
