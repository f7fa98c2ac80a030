"""Stand around the forward of some modules while a model runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["Listening"]


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
