"""Hooks of modules, run around a call while it is recorded, as `nn.Module.__call__` runs them.

What a hook does to tensors is recorded where it does it, so no module of the slim model carries it.
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import TraceError
from fxprune.tracing.values.proxy import proxies_in

__all__ = ["HOOK_TABLES", "Shown", "check_hooks", "hooked", "hooks_of", "run_hooked", "without_hooks"]

_AROUND = ("_forward_pre_hooks", "_forward_hooks")
_BACKWARD = ("_backward_hooks", "_backward_pre_hooks")
_OF_STATE = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
_KEYWORDS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
HOOK_TABLES = (*_AROUND, *_BACKWARD, *_KEYWORDS)
_GLOBAL = ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_hooks", "_global_backward_pre_hooks")


def hooked(module: nn.Module) -> bool:
    """Whether hooks run around a call of a module."""
    own = module.__dict__
    return bool(own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"])


def hooks_of(module: nn.Module) -> list[Callable[..., Any]]:
    """The hooks around the calls of a module."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


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


def run_hooked(module: nn.Module, name: str, forward: Callable[..., Any], call: tuple[Any, Any], shown: Shown) -> Any:
    """The result of ``forward(*args, **kwargs)`` with the module's hooks around it.

    Args:
        call: ``(args, kwargs)``.

    Raises:
        TraceError: a hook on gradients.
    """
    for table in _BACKWARD:
        for hook in module.__dict__[table].values():
            raise TraceError(
                f"{_place(name)} has a hook on gradients ({_shown(hook)[0]}), which a graph cannot hold: remove it (the "
                "handle's .remove()), and register it on the slim model"
            )
    args, kwargs = call
    for key, hook in list(module._forward_pre_hooks.items()):
        if key in module._forward_pre_hooks_with_kwargs:
            found = shown.run(module, name, hook, args, kwargs)
            if found is not None:
                args, kwargs = found
        elif (found := shown.run(module, name, hook, args)) is not None:
            args = found if isinstance(found, tuple) else (found,)
    called: set[int] = set()
    try:
        result = forward(*args, **kwargs)
        for key, hook in list(module._forward_hooks.items()):
            called.add(key)
            inputs = (args, kwargs) if key in module._forward_hooks_with_kwargs else (args,)
            found = shown.run(module, name, hook, *inputs, result)
            result = result if found is None else found
        return result
    except Exception:
        for key, hook in list(module._forward_hooks.items()):
            if key in module._forward_hooks_always_called and key not in called:
                hook(module, *((args, kwargs) if key in module._forward_hooks_with_kwargs else (args,)), None)
        raise


class Shown:
    """What hooks that give nothing back were shown and made: where one of them keeps it outside of the model, the slim model
    could not go on with that.
    """

    def __init__(self) -> None:
        self._made: list[Any] | None = None
        self._seen: list[tuple[weakref.ref[Any], str]] = []

    def note(self, proxy: Any) -> None:
        """Hear of a proxy that is made."""
        if self._made is not None:
            self._made.append(proxy)

    def run(self, module: nn.Module, name: str, hook: Callable[..., Any], *inputs: Any) -> Any:
        """What a hook gives back."""
        outer, self._made = self._made, []
        try:
            found = hook(module, *inputs)
            if found is None:
                where = f"a hook on {_place(name)} ({_shown(hook)[0]})"
                self._seen += [(weakref.ref(p), where) for p in (*proxies_in(inputs), *self._made)]
            return found
        finally:
            self._made = outer

    def check(self, modules: Mapping[str, nn.Module], known: Iterable[Any], held: Iterable[Any] = ()) -> None:
        """Look, after the run, what is still there.

        Args:
            modules: of the model.
            known: what the recorder keeps.
            held: containers that are put back as they were.

        Raises:
            TraceError: something is, and no attribute of the modules holds it.
        """
        if all(ref() is None for ref, _ in self._seen):
            return
        gc.collect()
        own = {id(proxy) for proxy in known}
        for module in modules.values():
            for key, value in module.__dict__.items():
                if key not in _INTERNAL:
                    _reach(value, own, 4)
        for holder in held:
            _reach(holder, own, 4)
        for ref, where in self._seen:
            kept = ref()
            if kept is not None and id(kept) not in own:
                raise TraceError(
                    f"{where} keeps what it sees outside of the model, where the slim model would add nothing: remove it (the "
                    "handle's .remove()), and register it on the slim model"
                )


_INTERNAL = frozenset(nn.Module().__dict__)


def _reach(value: Any, found: set[int], depth: int) -> None:
    """Add the ids of what a value holds, itself included."""
    if depth == 0 or isinstance(value, (nn.Module, type)) or id(value) in found:
        return
    found.add(id(value))
    if isinstance(value, Mapping):
        inside: Any = (*value, *value.values())  # results may be kept by device
    elif isinstance(value, (list, tuple, set, deque)):
        inside = value
    else:
        inside = () if isinstance(value, Tensor) else getattr(value, "__dict__", {}).values()
    for item in inside:
        _reach(item, found, depth - 1)


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
