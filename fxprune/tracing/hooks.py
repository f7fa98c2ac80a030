"""Hooks of modules, run around a call while it is recorded, as `nn.Module.__call__` runs them.

What a hook does to tensors is recorded where it does it, so no module of the slim model carries it.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.errors import TraceError

__all__ = ["check_hooks", "hooked", "hooks_by_module", "run_hooked", "without_hooks"]

_AROUND = ("_forward_pre_hooks", "_forward_hooks")
_BACKWARD = ("_backward_hooks", "_backward_pre_hooks")
_OF_STATE = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
_KEYWORDS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
_GLOBAL = ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_hooks", "_global_backward_pre_hooks")


def hooked(module: nn.Module) -> bool:
    """Whether hooks run around a call of a module."""
    own = module.__dict__
    return bool(own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"])


def hooks_by_module(modules: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
    """Name of a module -> the ids of the hooks around its calls, of those that have any."""
    return {name: (*m._forward_pre_hooks, *m._forward_hooks) for name, m in modules.items() if hooked(m)}


def check_hooks(tensors: Mapping[str, Tensor]) -> None:
    """
    Raises:
        TraceError: hooks that no graph can hold: of all modules at once, or on the gradient of a parameter.
    """
    for table in _GLOBAL:
        for hook in getattr(torch.nn.modules.module, table).values():
            if not _shown(hook)[1].startswith("torch."):  # PyTorch's own watch, and change nothing
                raise TraceError(
                    f"a hook of all modules is registered ({_shown(hook)[0]}), which would run for the parts of the slim model "
                    "too: remove it while the model is recorded, or register it on single modules"
                )
    for name, tensor in tensors.items():
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            raise TraceError(
                f"the parameter {name!r} has a hook on its gradient, which the slim model's parameter would not have: remove "
                "it (the handle's .remove()), and register it on the slim model"
            )


def without_hooks(module: nn.Module) -> dict[str, Any]:
    """New values for those attributes of a module that hold hooks; none where it has no hooks."""
    tables = [t for t in (*_AROUND, *_BACKWARD, *_OF_STATE, *_KEYWORDS) if module.__dict__.get(t)]
    return {table: OrderedDict() for table in tables}


def run_hooked(
    module: nn.Module, name: str, forward: Callable[..., Any], call: tuple[Any, Any], count: Callable[[], int]
) -> Any:
    """The result of ``forward(*args, **kwargs)`` with the module's hooks around it.

    Args:
        call: ``(args, kwargs)``.
        count: how many nodes the graph has.

    Raises:
        TraceError: a hook on gradients, or one that does nothing which a graph or the model would keep.
    """
    for table in _BACKWARD:
        for hook in module.__dict__[table].values():
            raise TraceError(
                f"{_place(name)} has a hook on gradients ({_shown(hook)[0]}), which a graph cannot hold: remove it (the "
                "handle's .remove()), and register it on the slim model"
            )
    args, kwargs = call
    for key, hook in list(module._forward_pre_hooks.items()):
        watched = _Watched(module, name, hook, count)
        if key in module._forward_pre_hooks_with_kwargs:
            found = watched(args, kwargs)
            if found is not None:
                args, kwargs = found
        elif (found := watched(args)) is not None:
            args = found if isinstance(found, tuple) else (found,)
    called: set[int] = set()
    try:
        result = forward(*args, **kwargs)
        for key, hook in list(module._forward_hooks.items()):
            called.add(key)
            inputs = (args, kwargs) if key in module._forward_hooks_with_kwargs else (args,)
            found = _Watched(module, name, hook, count)(*inputs, result)
            result = result if found is None else found
        return result
    except Exception:
        for key, hook in list(module._forward_hooks.items()):
            if key in module._forward_hooks_always_called and key not in called:
                hook(module, *((args, kwargs) if key in module._forward_hooks_with_kwargs else (args,)), None)
        raise


class _Watched:
    """A hook that must leave a trace in the graph or in the model: what it does elsewhere would be lost."""

    def __init__(self, module: nn.Module, name: str, hook: Callable[..., Any], count: Callable[[], int]) -> None:
        self.module, self.name, self.hook, self.count = module, name, hook, count

    def __call__(self, *inputs: Any) -> Any:
        nodes, state = self.count(), dict(self.module.__dict__)
        found = self.hook(self.module, *inputs)
        recorded = found is not None or self.count() != nodes
        if recorded or _holds_module(self.hook, set()) or _differ(state, self.module.__dict__):
            return found
        raise TraceError(
            f"a hook on {_place(self.name)} only looks on ({_shown(self.hook)[0]}): it would be shown what stands for tensors "
            "while they are recorded, and the slim model would not call it: remove it (the handle's .remove()), and register "
            "it on the slim model"
        )


def _differ(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return before.keys() != after.keys() or any(after[key] is not value for key, value in before.items())


def _holds_module(value: Any, seen: set[int]) -> bool:
    """Whether a function keeps a module, on which it may store what it sees: as the object that it is bound to, as an
    argument, or in its closure.
    """
    if id(value) in seen:
        return False
    seen.add(id(value))
    return isinstance(value, nn.Module) or any(_holds_module(part, seen) for part in _kept_by(value))


def _kept_by(value: Any) -> Iterator[Any]:
    if isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, FunctionType):
        yield from value.__defaults__ or ()
        with suppress(ValueError):  # a cell not yet filled
            for cell in value.__closure__ or ():
                yield cell.cell_contents
    elif type(value) in (list, tuple, dict):
        yield from nested.leaves(value)
    elif callable(value) and hasattr(value, "__dict__") and not isinstance(value, type):
        yield from vars(value).values()


def _place(name: str) -> str:
    return repr(name) if name else "the model"


def _shown(hook: Any) -> tuple[str, str]:
    """A hook's name and place, and the Python module that it is from."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    function = getattr(hook, "__func__", hook)
    function = function if isinstance(function, FunctionType) else type(hook).__call__
    code = getattr(function, "__code__", None)
    name = getattr(hook, "__qualname__", type(hook).__qualname__)
    source = f"{name}, line {code.co_firstlineno} of {code.co_filename}" if code is not None else name
    return source, getattr(hook, "__module__", None) or type(hook).__module__
