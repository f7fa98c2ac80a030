"""What hooks write into Python objects outside of the model; all of it is put back, also where the model is refused."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from fxprune.state import named_parts
from fxprune.tracing.modules.hooks import hooks_of
from fxprune.tracing.state.python_state import State

__all__ = ["HookState", "put_back_after"]

_NOT_OURS = ("torch.", "fxprune.", "builtins.")


class HookState(State):
    """What the objects that hooks of modules can name held at one time.

    That is more than what the model's own code writes (`State`), and nothing is said of it: a hook whose writes last is
    refused elsewhere.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({})
        for name, module in modules.items():
            for hook in hooks_of(module):
                self._note_value(name, hook)

    def _note_value(self, name: str, value: Any) -> None:
        if isinstance(value, (type, nn.Module, Tensor, ModuleType)):
            return
        if isinstance(value, FunctionType):
            self._note_function(value)
        elif isinstance(value, MethodType):
            self._note_value(name, value.__self__)
            self._note_value(name, value.__func__)
        elif isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self._note_value(name, part)
        elif isinstance(getattr(value, "__dict__", None), dict) and not _home(value).startswith(_NOT_OURS):
            if id(type(value)) not in self._seen:
                self._seen.add(id(type(value)))
                self._note_class(type(value))
            self._note(name, value.__dict__)
        else:
            super()._note_value(name, value)

    def _note_function(self, function: FunctionType) -> None:
        if id(function) in self._seen or _home(function).startswith(_NOT_OURS):
            return
        self._seen.add(id(function))
        super()._note_function(function)
        self._note(function.__name__, function.__dict__)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._note_value(function.__name__, value)
        names = set(_names(function.__code__))
        for value in [function.__globals__[n] for n in names if n in function.__globals__]:
            self._note_value(function.__name__, value)
            if isinstance(value, ModuleType) and not f"{value.__name__}.".startswith(_NOT_OURS):
                for inside in [vars(value)[n] for n in names if n in vars(value)]:
                    self._note_value(value.__name__, inside)


@contextlib.contextmanager
def put_back_after(*models: nn.Module) -> Iterator[None]:
    """Inside, code of some models runs; afterwards the Python objects that it and its hooks can name hold what they did."""
    modules = {f"{i}.{name}": part for i, model in enumerate(models) for name, part in named_parts(model, once=True)}
    with HookState(modules), State(modules):
        yield


def _home(value: Any) -> str:
    return f"{getattr(value if isinstance(value, FunctionType) else type(value), '__module__', None) or ''}."


def _names(code: CodeType) -> Iterator[str]:
    """The names of globals and attributes in a function, and in those inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
