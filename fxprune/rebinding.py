"""Functions that a copied model keeps, so that they reach the copy where they reached the model.

`copy.deepcopy` shares functions: ``old = conv.forward; conv.forward = lambda x: 2 * old(x)`` calls the original's
convolution from the copy.
"""

from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["rebind"]

_FUNCTIONS = frozenset({FunctionType, MethodType, functools.partial, RemovableHandle})
_CONTAINERS = frozenset({list, dict, OrderedDict, defaultdict, set})


def rebind(modules: Iterable[nn.Module], memo: dict[int, Any]) -> None:
    """Give the functions among the attributes and hooks of copied modules twins that reach what was copied.

    Lists, dicts and sets in a closure are copied with it, so that what a recorded function stores is not seen outside.

    Args:
        memo: as of `copy.deepcopy`: ``id(original) -> copy`` for what was copied.
    """
    twins = _Twins(memo)
    for module in modules:
        own = module.__dict__
        for key, value in own.items():
            kind = type(value)
            if kind in _FUNCTIONS:
                own[key] = twins.of(value)
            elif kind in _CONTAINERS and value and key != "_modules":
                twins.replace(value)


class _Twins:
    def __init__(self, memo: dict[int, Any]) -> None:
        self.memo = memo
        self.kept: list[Any] = []  # ids in memo stay those of what they were

    def replace(self, container: Any) -> None:
        """Put twins of functions into a copied container, in place."""
        if isinstance(container, set):
            return
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in list(items):
            if type(value) in _FUNCTIONS and (twin := self.of(value)) is not value:
                container[key] = twin
            elif type(value) in (list, dict, OrderedDict, defaultdict):
                self.replace(value)

    def of(self, value: Any) -> Any:
        """What stands for a value in the copy: itself, if it does not reach the model."""
        if id(value) in self.memo:
            return self.memo[id(value)]
        kind = type(value)
        twin = value
        if kind is FunctionType:
            return self._function(value)
        if kind is MethodType:
            parts = self.of(value.__func__), self.of(value.__self__)
            twin = value if parts[0] is value.__func__ and parts[1] is value.__self__ else MethodType(*parts)
        elif kind is functools.partial:
            twin = self._partial(value)
        elif kind is RemovableHandle:
            twin = self._handle(value)
        elif kind is tuple:
            items = tuple(self.of(item) for item in value)
            twin = value if all(a is b for a, b in zip(items, value, strict=True)) else items
        elif kind in _CONTAINERS:
            return self._container(value)
        return self._keep(value, twin)

    def _keep(self, value: Any, twin: Any) -> Any:
        self.memo[id(value)] = twin
        self.kept.append(value)
        return twin

    def _function(self, value: FunctionType) -> Any:
        cells = value.__closure__ or ()
        if not (cells or value.__defaults__ or value.__kwdefaults__):
            return value
        fresh = tuple(CellType() for _ in cells)
        twin = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, fresh or None)
        self._keep(value, twin)
        changed = False
        for cell, new in zip(cells, fresh, strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # not yet filled
                continue
            new.cell_contents = self.of(content)
            changed |= new.cell_contents is not content and content is not value
        defaults = tuple(self.of(d) for d in value.__defaults__ or ())
        given = value.__kwdefaults__ or {}
        named = {k: self.of(d) for k, d in given.items()}
        changed |= any(a is not b for a, b in zip(defaults, value.__defaults__ or (), strict=True))
        changed |= any(d is not given[k] for k, d in named.items())
        if not changed:
            self.memo[id(value)] = value
            return value
        twin.__defaults__, twin.__kwdefaults__ = defaults or None, named or None
        twin.__dict__.update(value.__dict__)
        twin.__qualname__, twin.__module__, twin.__doc__ = value.__qualname__, value.__module__, value.__doc__
        return twin

    def _partial(self, value: functools.partial[Any]) -> Any:
        parts = (value.func, *value.args, *value.keywords.values())
        new = [self.of(part) for part in parts]
        if all(a is b for a, b in zip(new, parts, strict=True)):
            return value
        twin: Any = functools.partial(new[0], *new[1 : 1 + len(value.args)])
        twin = functools.partial(twin, **dict(zip(value.keywords, new[1 + len(value.args) :], strict=True)))
        twin.__dict__.update(value.__dict__)
        return twin

    def _handle(self, value: RemovableHandle) -> RemovableHandle:
        table = value.hooks_dict_ref()
        twin = RemovableHandle.__new__(RemovableHandle)
        extra = tuple(self._table(ref()) for ref in value.extra_dict_ref)
        twin.__setstate__((self._table(table), value.id, extra))
        return twin

    def _table(self, table: Any) -> Any:
        return self.memo.get(id(table), OrderedDict())  # of hooks that were not copied: none that it could remove

    def _container(self, value: Any) -> Any:
        twin = self._keep(value, value.copy())
        if isinstance(value, dict):
            twin.update((key, self.of(item)) for key, item in value.items())
        elif isinstance(value, list):
            twin[:] = [self.of(item) for item in value]
        return twin
