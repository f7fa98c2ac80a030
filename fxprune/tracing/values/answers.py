"""What model code asks of a proxy while it is recorded: sizes, attributes, results of methods, numbers of plain Python."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import is_tensor_method_or_property

from fxprune import nested
from fxprune.errors import TraceError
from fxprune.tracing.graphs.guards import LIMITS, SCALARS, Guard
from fxprune.tracing.labelling.label_mode import LabelMode
from fxprune.tracing.places import line_running
from fxprune.tracing.skeleton import Skeleton
from fxprune.tracing.undecided import Questions
from fxprune.tracing.values.known_values import numbers_behind
from fxprune.tracing.values.proxy import Method, Sizes, become, is_proxy

__all__ = ["Answers"]

_MISSING = object()
_OF_SHAPE = frozenset("dim ndimension is_floating_point is_complex is_contiguous element_size is_signed".split())
_OF_PLACE = frozenset("is_cuda is_cpu is_meta is_mps is_xpu is_mkldnn is_quantized".split())
_ALSO_FUNCTIONS = frozenset("numel is_floating_point is_complex is_signed".split())
_OF_VALUES = frozenset(
    """
    item tolist numpy data_ptr untyped_storage storage storage_offset __array__ __dlpack__ __dlpack_device__ __bool__ __int__
    __float__ __index__ __complex__ __reduce_ex__
    """.split()
)


class Answers(fx.Tracer):
    """The part of a recorder that answers model code; what has no answer at once becomes a node.

    Attributes:
        branched: names of the ``training`` flags for which the model's code asked as a bool.
        of_training: nodes computed from self.training alone.
        questions: what the code asked of values, and what it was told.
        device_type: of the user's model, which is recorded on the meta device.
    """

    mode: LabelMode
    skeleton: Skeleton
    values: dict[fx.Node, Any]
    _node: Callable[..., fx.Node]
    _evaluated: Callable[..., Any]
    wrap: Callable[..., Any]

    def __init__(self) -> None:
        super().__init__()
        self.branched: set[str] = set()
        self.questions = Questions()
        self.device_type = "cpu"
        self._guards: set[str] = set()
        self.of_training: set[fx.Node] = set()
        self._sizes: dict[tuple[fx.Node, int], Any] = {}

    def size(self, proxy: Any, dim: int) -> Any:
        """A size as a number, or as a node where it follows the input."""
        value: Tensor = proxy.value
        dim %= value.dim()
        if not self.mode.axes(value)[dim].dynamic:
            return int(value.shape[dim])
        key = (proxy.node, dim)
        if key not in self._sizes:
            self._sizes[key] = self.wrap(self._node("call_method", "size", (proxy.node, dim)), int(value.shape[dim]))
        return self._sizes[key]

    def attribute(self, proxy: Any, name: str) -> Any:
        """``x.name``: sizes, a new node for a tensor, a device or a dtype, a method to call, or what it is."""
        value = proxy.value
        if isinstance(value, Tensor) and name == "shape":
            return Sizes(self.size(proxy, d) for d in range(value.dim()))
        if isinstance(value, torch.device) and name == "type":
            return self.device_type
        if name in _OF_PLACE and isinstance(value, Tensor):
            return getattr(self._example(value.dtype), name)
        found = getattr(value, name, _MISSING)
        if found is _MISSING:
            raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
        if isinstance(found, (Tensor, torch.device, torch.dtype)) or isinstance(value, LIMITS):
            return self.create_proxy("call_function", getattr, (proxy, name), {})
        if callable(found) and not isinstance(found, type):
            return Method(proxy, name)
        return found

    def _example(self, dtype: torch.dtype) -> Tensor:
        """A tensor where the model's own are."""
        return torch.empty(0, dtype=dtype, device=self.device_type)

    def method(self, proxy: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``x.name(*args, **kwargs)``: what follows from the shape is answered, all else recorded."""
        value = proxy.value
        if isinstance(value, Tensor):
            if name == "size":
                dim = args[0] if args else kwargs.get("dim")
                return self.attribute(proxy, "shape") if dim is None else self.size(proxy, int(dim))
            if name in ("numel", "nelement"):
                return self.attribute(proxy, "shape").numel()
            if name == "__len__":
                return self.size(proxy, 0)
            if name == "stride":
                return self._strides(proxy, *args, **kwargs)
            if name == "requires_grad_" and proxy.node.op != "get_attr" and not kwargs and args in ((), (True,)):
                return proxy  # of a computed tensor: it changes neither values nor the gradients of parameters
            if name in ("type", "get_device") and not args and not kwargs:
                return getattr(self._example(value.dtype), name)()
            if name in _OF_SHAPE:
                return getattr(value, name)(*args, **kwargs)
            if name in _OF_VALUES:
                return self._read(proxy, name, args, kwargs)
        if name == "__setitem__":
            return self.create_proxy("call_function", operator.setitem, (proxy, *args), kwargs)
        return self.create_proxy("call_method", name, (proxy, *args), kwargs)

    def _strides(self, proxy: Any, dim: int | None = None) -> Any:
        """``x.stride()``, nodes where the sizes follow the input, as do the strides."""
        value: Tensor = proxy.value
        if dim is None:
            return tuple(self._strides(proxy, d) for d in range(value.dim()))
        if not any(axis.dynamic for axis in self.mode.axes(value)):
            return value.stride(dim)
        node = self._node("call_method", "stride", (proxy.node, int(dim)))
        return self.wrap(node, self._evaluated(node, (value, int(dim)), {}))

    def _read(self, proxy: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What is in a tensor of known values: a number is a node where it follows sizes, else these are asserted."""
        known = self.mode.known(proxy.value)
        if known is None:
            raise self.reads_values(proxy, name)
        numbers = [*numbers_behind(proxy.node, self.values)]
        if self.of_training.intersection(numbers):
            raise self.reads_values(proxy, name)
        if numbers and (name == "item" or (name == "tolist" and not known.dim())):
            node = self._node("call_method", "item", (proxy.node,))
            return self.wrap(node, known.item())
        for number in numbers:
            self._assert(Guard(number, self.values[number]))
        return getattr(known, name)(*args, **kwargs)

    def set_attribute(self, proxy: Any, name: str, *value: Any) -> None:
        """``x.name = value``, or ``del x.name`` without a value.

        Raises:
            TraceError: it is anything but the wish that a computed tensor has a gradient, which changes no other.
        """
        if name != "requires_grad" or value != (True,):
            instead = ": write into it under torch.no_grad() (.copy_()), or compute a new tensor" if name == "data" else ""
            raise TraceError(f"the model sets .{name} of a tensor ({line_running()}), which a graph cannot hold{instead}")

    def torch_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of torch called on a proxy; one that is a method of tensors is that method of its first argument."""
        name = func.__name__
        if name in ("__get__", "__set__", "__delete__") and is_proxy(args[0]):
            asked = func.__self__.__name__
            return self.attribute(args[0], asked) if name == "__get__" else self.set_attribute(args[0], asked, *args[1:])
        if is_tensor_method_or_property(func):
            if args and is_proxy(args[0]):
                return self.method(args[0], name, args[1:], kwargs)
            if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
                self._start_anew(args[0])
                if is_proxy(args[0]):
                    return self.method(args[0], name, args[1:], kwargs)
            return self.create_proxy("call_method", name, args, kwargs)
        for written in nested.tensors(kwargs.get("out")):
            self._start_anew(written)
        if name in _ALSO_FUNCTIONS and args and is_proxy(args[0]):  # torch.numel(x) is x.numel()
            return self.method(args[0], name, args[1:], kwargs)
        if isinstance(func, torch._C.ScriptMethod):
            raise TraceError(
                f"the model calls {name!r}, a method of TorchScript, which holds no Python code ({line_running()})"
            )
        return self.create_proxy("call_function", func, args, kwargs, self.graph._target_to_str(name))

    def _start_anew(self, tensor: Tensor) -> None:
        """Before forward writes what it computes into a tensor that it made of numbers alone, for this call of it."""
        if not is_proxy(tensor) and not tensor.is_meta:
            become(tensor, self.create_proxy("call_method", "clone", (tensor,), {}))

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator that code in C calls on a proxy: a node, unless it could hold sizes that C code read as numbers.

        Raises:
            TraceError: it could, or it writes.
        """
        plain = {type(leaf) for leaf in nested.leaves((args, kwargs)) if not is_proxy(leaf)}
        if func._schema.is_mutable or not plain <= {type(None), bool, torch.dtype, torch.device}:
            raise TraceError(
                f"code in C calls {func} on tensors of the model ({line_running()}), outside the functions of torch that a "
                "graph records: call those, or prune the other parts with submodules=[...]"
            )
        return self.create_proxy("call_function", func, args, kwargs)

    def reads_values(self, proxy: Any, name: str) -> TraceError:
        """The error of a model that reads what is in a tensor."""
        return TraceError(f"the model reads values of a tensor with .{name}(): its path depends on data ({line_running()})")

    def decided(self, proxy: Any) -> bool:
        """Which way a branch goes."""
        value = proxy.value
        if isinstance(value, Tensor) and value.numel() == 1 and self.mode.known(value) is None:
            return self.questions.ask(self._undecided(proxy))
        if type(value) in (int, float) and proxy.node not in self.of_training:
            proxy = self.create_proxy("call_function", operator.ne, (proxy, 0), {})  # whichever number it is
        return bool(self.concrete(proxy))

    def _undecided(self, proxy: Any) -> TraceError:
        return TraceError(
            f"the model's path depends on the values of the tensor {proxy.node.name!r} ({line_running()}): "
            "only sizes may decide it; prune the parts that do not depend on data with submodules=[...]"
        )

    def concrete(self, proxy: Any) -> Any:
        """The value that Python code needs right now: the graph asserts that it stays so."""
        if not is_proxy(proxy):
            return proxy
        value = proxy.value
        if proxy.node in self.of_training:
            self.branched.update(_flags_of(proxy.node))
            return value
        if isinstance(value, Tensor):
            known = self.mode.known(value)
            if known is None or known.numel() != 1:
                raise self._undecided(proxy)
            return self.concrete(self._read(proxy, "item", (), {}))
        if isinstance(value, SCALARS):
            self._assert(Guard(proxy.node, value))
        return value

    def _assert(self, guard: Guard) -> None:
        def add(function: Any, args: tuple[Any, ...], value: Any) -> fx.Node:
            node = self.graph.create_node("call_function", function, args)
            node.meta.update(guard.node.meta)
            self.values[node] = value
            return node

        if (text := guard.text(self.values)) not in self._guards:
            self._guards.add(text)
            guard.emit(text, add)


def _flags_of(node: fx.Node) -> set[str]:
    """The ``training`` flags that a node is computed from."""
    if node.op == "get_attr":
        return {str(node.target)}
    return {flag for source in node.all_input_nodes for flag in _flags_of(source)}
