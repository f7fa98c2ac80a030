"""Proxies that carry the value of their node, so that model code gets answers while it is recorded."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.graph import magic_methods, reflectable_magic_methods

from fxprune import nested

__all__ = [
    "IndexProxy",
    "Method",
    "Proxy",
    "Sizes",
    "TensorProxy",
    "become",
    "constant_proxy",
    "is_proxy",
    "proxies_in",
    "proxy_of",
    "value_of",
]

_CEIL, _FLOOR = math.ceil, math.floor  # themselves: what `math` holds during a recording is what records them


class Sizes(tuple[Any, ...]):
    """A shape whose entries may be proxies."""

    def numel(self) -> Any:
        return functools.reduce(operator.mul, self, 1)

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Sizes(found) if isinstance(index, slice) else found

    def __add__(self, other: Any) -> Any:
        return Sizes(super().__add__(tuple(other)))


class _Asked:
    """What Python itself asks of a proxy of any kind."""

    tracer: Any  # a `fxprune.tracing.recorder.Recorder`
    node: fx.Node
    value: Any

    def __iter__(self) -> Iterator[Any]:
        count = len(self) if isinstance(self.value, Tensor) else len(self.value)
        return (self.tracer.create_proxy("call_function", operator.getitem, (self, i), {}) for i in range(count))

    def __len__(self) -> int:
        return int(self.tracer.size(self, 0)) if isinstance(self.value, Tensor) and self.value.dim() else len(self.value)

    def __bool__(self) -> bool:
        return bool(self.tracer.decided(self))

    def __int__(self) -> int:
        return int(self.tracer.concrete(self))

    def __float__(self) -> float:
        return float(self.tracer.concrete(self))

    def __contains__(self, item: Any) -> bool:
        if isinstance(self.value, Tensor):  # as torch has it
            return bool((item == self).any())
        return any(item is x or item == x for x in self)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __round__(self, digits: int | None = None) -> Any:
        return self.tracer.create_proxy("call_function", round, (self,) if digits is None else (self, digits), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", _CEIL, (self,), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", _FLOOR, (self,), {})

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tracer = next(leaf for leaf in nested.leaves((args, kwargs)) if is_proxy(leaf)).tracer
        return tracer.torch_function(func, args, kwargs)


class Proxy(_Asked, fx.Proxy):  # type: ignore[misc]
    """A proxy of a number, a flag, a device, a tuple: of anything but a tensor."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # so that isinstance(n, int) holds in model code
        value = self.__dict__.get("value")
        return type(value) if isinstance(value, (int, float)) else Proxy

    def __getattr__(self, name: str) -> Any:
        return self.tracer.attribute(self, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.value, (bool, int, float)):
            return self  # code that asks `callable(flag)` is told yes, and calls what is no function
        return super().__call__(*args, **kwargs)

    def __hash__(self) -> int:
        value = self.__dict__.get("value")
        # A device or a dtype is a key by what it is: models keep results under x.device, and look them up so.
        return hash(value) if isinstance(value, (torch.device, torch.dtype)) else id(self)


class IndexProxy(Proxy):
    """A proxy that also serves as a number of plain Python (``range(n)``, ``names[n]``), which the graph then asserts.

    PyTorch's C functions would read such an object as a number at once: tracing tries without it first, and wraps them.
    """

    def __index__(self) -> int:
        return operator.index(self.tracer.concrete(self))


_get = object.__getattribute__


class TensorProxy(_Asked, Tensor):
    """A proxy of a tensor, itself a tensor over the memory of its value: C code that takes it for one finds one.

    What model code asks of it goes to the recorder, as of any proxy, and so do operators that C code calls on it.
    """

    def __getattribute__(self, name: str) -> Any:
        held = _get(self, "__dict__")
        if name in held:
            return held[name]
        if name == "__class__":  # so that isinstance(w, nn.Parameter) holds in model code
            return type(held["value"])
        if name.startswith("__"):
            return _get(self, name)
        if name == "node":
            held["node"] = held["tracer"].tensor_argument(held["value"]).node
            return held["node"]
        return held["tracer"].attribute(self, name)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """What code in C calls on a proxy, below the functions of torch."""
        return next(proxy for proxy in proxies_in((args, kwargs))).tracer.operator(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Proxy({self.node.name})"

    __str__ = __repr__

    def __format__(self, form: str) -> str:
        return format(repr(self), form)

    def __index__(self) -> int:
        return operator.index(self.tracer.concrete(self))

    def __complex__(self) -> complex:
        return complex(self.tracer.concrete(self))

    def __hash__(self) -> int:
        return id(self)

    def __copy__(self) -> Any:
        return self.detach()  # what copy.copy makes shares the memory, and has no gradient

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = self.detach().clone()
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise self.tracer.reads_values(self, "pickle")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise self.tracer.reads_values(self, "numpy")

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        raise self.tracer.reads_values(self, "__dlpack__")


# Operators become the nodes that torch.fx makes of them.
for _name in (*magic_methods, *reflectable_magic_methods):
    for _dunder in (f"__{_name.strip('_')}__", f"__r{_name.strip('_')}__"):
        if _dunder in fx.Proxy.__dict__:
            setattr(TensorProxy, _dunder, fx.Proxy.__dict__[_dunder])
TensorProxy.__abs__ = fx.Proxy.__abs__  # type: ignore[assignment]


def _inplace(name: str) -> Callable[[Any, Any], Any]:
    """``x += y`` writes into a tensor, but makes a new number."""
    function = getattr(operator, name)
    plain = getattr(operator, {"iand": "and_", "ior": "or_"}.get(name, name[1:]))

    def method(self: Any, other: Any) -> Any:
        return self.tracer.create_proxy(
            "call_function", function if isinstance(self.value, Tensor) else plain, (self, other), {}
        )

    return method


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul"):
    for _kind in (Proxy, TensorProxy):
        setattr(_kind, f"__{_name}__", _inplace(_name))


_KINDS = frozenset((Proxy, IndexProxy, TensorProxy))


def is_proxy(a: Any) -> bool:
    """Whether `a` is a proxy (isinstance would ask the class that it pretends to be)."""
    return type(a) in _KINDS


def proxy_of(tracer: Any, node: fx.Node, value: Any) -> Any:
    """The proxy of a node with a value, of the recorder's class where that is no tensor."""
    if not isinstance(value, Tensor):
        proxy = tracer.proxy_class(node, tracer)
        proxy.__dict__["value"] = value
        return proxy
    proxy = Tensor._make_subclass(TensorProxy, value)
    torch._C._set_throw_on_mutable_data_ptr(proxy)  # the memory is not there: better an error than a crash
    _get(proxy, "__dict__").update(node=node, tracer=tracer, value=value)
    return proxy


class Method:
    """``x.name`` before it is called."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.owner.tracer.method(self.owner, self.name, args, kwargs)


def constant_proxy(tracer: Any, value: Tensor) -> Any:
    """The proxy of a tensor that the model holds, whose node is made when it is used."""
    proxy = Tensor._make_subclass(TensorProxy, value)
    torch._C._set_throw_on_mutable_data_ptr(proxy)
    _get(proxy, "__dict__").update(tracer=tracer, value=value)
    return proxy


def become(tensor: Tensor, proxy: Any) -> None:
    """Make of a plain tensor, which model code holds, a second proxy of the same node."""
    tensor.__class__ = TensorProxy
    _get(tensor, "__dict__").update(node=proxy.node, tracer=proxy.tracer, value=proxy.value)


def value_of(a: Any) -> Any:
    """The value of a proxy; anything else is its own value."""
    return a.value if is_proxy(a) else a


def proxies_in(value: Any) -> list[Any]:
    """The proxies in a nested value, in order."""
    return [leaf for leaf in nested.leaves(value) if is_proxy(leaf)]
