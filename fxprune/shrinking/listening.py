"""Stand around the forward of some modules while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["Listening", "reading"]


class Listening:
    """Has the forward of some modules go through a function."""

    def __init__(self, modules: dict[str, nn.Module], around: Callable[..., Any]) -> None:
        self.modules, self.around = modules, around
        self.before: list[tuple[nn.Module, Any]] = []

    def __enter__(self) -> None:
        done: set[int] = set()
        for name, module in self.modules.items():
            if id(module) in done:
                continue
            done.add(id(module))
            self.before.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = self._through(name, module, module.forward)

    def _through(self, name: str, module: nn.Module, forward: Any) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            return self.around(name, module, forward, args, kwargs)

        return called

    def __exit__(self, *error: object) -> None:
        for module, before in self.before:
            if before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = before


@contextmanager
def reading(model: nn.Module) -> Iterator[set[tuple[str, str]]]:
    """Inside, the attributes that code reads from the modules are noted: module and attribute, by name."""
    found: set[tuple[str, str]] = set()
    before = [(name, part, type(part)) for name, part in model.named_modules()]
    for name, part, kind in before:

        def heard(thing: Any, key: str, name: str = name, kind: Any = kind) -> Any:
            found.add((name, key))
            return kind.__getattribute__(thing, key)

        try:
            part.__class__ = type(kind.__name__, (kind,), {"__getattribute__": heard, "__module__": kind.__module__})
        except TypeError:  # of a class whose objects stay what they are
            continue
    try:
        yield found
    finally:
        for _, part, kind in before:
            part.__class__ = kind
