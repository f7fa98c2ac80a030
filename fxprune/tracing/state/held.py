"""What modules hold beside their parameters, buffers and parts, while their code is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fxprune.tracing.modules.lowering import is_leaf
from fxprune.tracing.values.proxy import constant_proxy

if TYPE_CHECKING:
    from fxprune.tracing.recorder import Recorder

__all__ = ["plain_tensors_as_proxies"]


@contextmanager
def plain_tensors_as_proxies(recorder: Recorder) -> Iterator[None]:
    """Plain tensors of modules are proxies, so that what forward makes of them (``self.table[:n]``) is recorded.

    Whatever forward sets on modules is undone: nothing of one recording reaches the next.
    """
    modules = {id(m): m for m in recorder.names.modules.values()}.values()
    tables = [t for m in modules for t in (m.__dict__, m._parameters, m._buffers)]
    before = [dict(table) for table in tables]
    made: dict[int, Any] = {}

    def proxies(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in recorder.skeleton.origin:
                return value
            if id(value) not in made:
                made[id(value)] = constant_proxy(recorder, value)
            return made[id(value)]
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)(proxies(item) for item in value)
        return {k: proxies(v) for k, v in value.items()} if type(value) is dict else value

    try:
        for module, key in recorder.skeleton.held:
            if not is_leaf(module):  # whose own code runs on values
                module.__dict__[key] = proxies(module.__dict__[key])
        yield
    finally:
        for table, state in zip(tables, before, strict=True):
            if len(table) != len(state) or any(table.get(k) is not v for k, v in state.items()):
                table.clear()
                table.update(state)
