"""Proxies that carry the value of their node, so that model code gets answers while it is recorded."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from fxprune import nested

__all__ = ["IndexProxy", "Method", "Proxy", "Sizes", "is_proxy", "proxies_in", "value_of"]


class Sizes(tuple[Any, ...]):
    """A shape whose entries may be proxies."""

    def numel(self) -> Any:
        return functools.reduce(operator.mul, self, 1)

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Sizes(found) if isinstance(index, slice) else found

    def __add__(self, other: Any) -> Any:
        return Sizes(super().__add__(tuple(other)))


class Proxy(fx.Proxy):
    """A proxy that knows its node's value."""

    tracer: Any  # a `fxprune.tracing.recorder.Recorder`
    value: Any

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # so that isinstance(x, Tensor) and isinstance(n, int) hold in model code
        value = self.__dict__.get("value")
        return type(value) if isinstance(value, (Tensor, int, float)) else Proxy

    def __getattr__(self, name: str) -> Any:
        return self.tracer.attribute(self, name)

    def __iter__(self) -> Iterator[Any]:
        count = len(self) if isinstance(self.value, Tensor) else len(self.value)
        return (self.tracer.create_proxy("call_function", operator.getitem, (self, i), {}) for i in range(count))

    def __len__(self) -> int:
        return int(self.tracer.size(self, 0)) if isinstance(self.value, Tensor) else len(self.value)

    def __bool__(self) -> bool:
        return bool(self.tracer.concrete(self))

    def __int__(self) -> int:
        return int(self.tracer.concrete(self))

    def __float__(self) -> float:
        return float(self.tracer.concrete(self))

    def __contains__(self, item: Any) -> bool:
        return any(item is x or item == x for x in self)

    def __hash__(self) -> int:
        value = self.__dict__.get("value")
        # A device or a dtype is a key by what it is: models keep results under x.device, and look them up so.
        return hash(value) if isinstance(value, (torch.device, torch.dtype)) else id(self)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __round__(self, digits: int | None = None) -> Any:
        return self.tracer.create_proxy("call_function", round, (self,) if digits is None else (self, digits), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other


def _inplace(name: str) -> Callable[[Proxy, Any], Any]:
    """``x += y`` writes into a tensor, but makes a new number."""
    function = getattr(operator, name)
    plain = getattr(operator, {"iand": "and_", "ior": "or_"}.get(name, name[1:]))

    def method(self: Proxy, other: Any) -> Any:
        return self.tracer.create_proxy(
            "call_function", function if isinstance(self.value, Tensor) else plain, (self, other), {}
        )

    return method


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "imatmul"):
    setattr(Proxy, f"__{_name}__", _inplace(_name))


class IndexProxy(Proxy):
    """A proxy that also serves as a number of plain Python (``range(n)``, ``names[n]``), which the graph then asserts.

    PyTorch's C functions would read such an object as a number at once: tracing tries without it first, and wraps them.
    """

    def __index__(self) -> int:
        return operator.index(self.tracer.concrete(self))


def is_proxy(a: Any) -> bool:
    """Whether `a` is a proxy (isinstance would ask the class that it pretends to be)."""
    return type(a) is Proxy or type(a) is IndexProxy


class Method:
    """``x.name`` before it is called."""

    def __init__(self, owner: Proxy, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.owner.tracer.method(self.owner, self.name, args, kwargs)


def value_of(a: Any) -> Any:
    """The value of a proxy; anything else is its own value."""
    return a.__dict__["value"] if is_proxy(a) else a


def proxies_in(value: Any) -> list[Proxy]:
    """The proxies in a nested value, in order."""
    return [leaf for leaf in nested.leaves(value) if is_proxy(leaf)]
