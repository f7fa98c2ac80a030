"""The recorder behind `fxprune.tracing.tracer`: every operation on a proxy becomes a node, and runs on the meta device."""

from __future__ import annotations

import builtins
import functools
import math
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any
from unittest import mock
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from fxprune.errors import PruneError, TraceError
from fxprune.labels.store import Axis
from fxprune.state import tensor_names
from fxprune.tracing.interpret import FACTORIES, call_on_meta, literals_in
from fxprune.tracing.label_mode import LabelMode
from fxprune.tracing.lowering import lowered_forward, pure_leaf
from fxprune.tracing.proxy import IndexProxy, Method, Proxy, Sizes, is_proxy, proxies_in, value_of

__all__ = ["OWN_FILES", "Recorder", "is_constant", "patched"]

_SCALARS = (bool, int, float, complex)
_MATH = tuple(n for n in dir(math) if not n.startswith("_") and callable(getattr(math, n)))
# C functions that take sizes; those of torch.nn.functional are found.
_SIZED = tuple(
    """
    reshape narrow tile broadcast_to roll select unflatten flatten chunk permute split_with_sizes repeat_interleave
    pixel_shuffle pixel_unshuffle
    """.split()
)
_ORIGINAL_CALL = nn.Module.__call__
_ORIGINAL_GETATTR = nn.Module.__getattr__


class Recorder(fx.Tracer):
    """Records one run of a skeleton; `patched` routes what the model's code does to it.

    Attributes:
        values: node -> value on the meta device.
        constants: name -> tensor that the model makes or holds outside its state.
        lowered: module name -> torch.nn class that stands for it.
        branched_on_training: the model's code asked for ``self.training`` as a bool.
    """

    def __init__(self, skeleton: nn.Module, mode: LabelMode, origin: Mapping[int, Tensor], proxy_class: type[Proxy]) -> None:
        super().__init__()
        self.proxy_class = proxy_class
        self.root = skeleton
        self.graph = fx.Graph(tracer_cls=fx.Tracer)
        self.graph._codegen = fx.graph.CodeGen()
        self.mode, self.origin = mode, origin
        self.module_names = {id(m): name for name, m in skeleton.named_modules()}
        self.tensor_names = tensor_names(skeleton)
        self.values: dict[fx.Node, Any] = {}
        self.constants: dict[str, Tensor] = {}
        self.lowered: dict[str, type[nn.Module]] = {}
        self.branched_on_training = False
        self.evaluating = False
        self.scopes: list[nn.Module] = [skeleton]
        self._attributes: dict[str, Proxy] = {}
        self._constant_names: dict[int, str] = {}
        self._guards: set[str] = set()
        self._of_training: set[fx.Node] = set()  # nodes computed from self.training alone
        self._sizes: dict[tuple[fx.Node, int], Any] = {}
        self._pure: dict[str, nn.Module] = {}

    # -- nodes ------------------------------------------------------------------------------------------------------

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: Any,
        kwargs: Any,
        name: Any = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        lowered = self._batch_norm_leaf(kind, target, args, kwargs)
        if lowered is not None:
            kind, target, args, kwargs = lowered
        value_args, value_kwargs = map_aggregate((args, kwargs), self._value)
        dynamic = any(isinstance(p.value, _SCALARS) for p in proxies_in((args, kwargs)))
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs), name, type_expr)
        source = _source_line()
        node.meta["scope"] = self.module_names.get(id(self.scopes[-1]), "")
        node.meta["source"] = source
        value = self._evaluate(node, kind, target, value_args, value_kwargs, source)
        self.values[node] = value
        if is_constant(value) and not dynamic and kind != "get_attr":
            self.graph.erase_node(node)
            del self.values[node]
            return value
        self._name_literal_axes(kind, target, args, value)
        if dynamic and isinstance(value, _SCALARS) and all(n in self._of_training for n in node.all_input_nodes):
            self._of_training.add(node)
        return self._wrap(node, value)

    def _value(self, a: Any) -> Any:
        """What an argument is on the meta device; a tensor made outside the graph is a constant of it."""
        if type(a) is Tensor and not a.is_meta:
            return self._tensor_argument(a).value
        return value_of(a)

    def _wrap(self, node: fx.Node, value: Any) -> Proxy:
        proxy = self.proxy_class(node, self)
        proxy.__dict__["value"] = value
        return proxy

    def create_arg(self, a: Any) -> Any:
        kind = type(a)
        if is_proxy(a):
            return a.node
        if kind in (int, str, float, bool, type(None)):
            return a
        if kind is Method:
            raise TraceError(f"the method {a.name!r} of a tensor is passed around uncalled, which a graph cannot hold")
        if isinstance(a, nn.Module):
            raise TraceError(f"the module {self.module_names.get(id(a), type(a).__name__)!r} is passed to a function")
        if isinstance(a, Tensor):
            return self._tensor_argument(a).node
        if isinstance(a, dict):
            return {k: self.create_arg(v) for k, v in a.items()}
        if isinstance(a, (list, tuple)) and hasattr(a, "_fields"):
            return kind(*(self.create_arg(x) for x in a))
        if isinstance(a, (tuple, torch.Size)):
            return tuple(self.create_arg(x) for x in a)
        if isinstance(a, list):
            return [self.create_arg(x) for x in a]
        if isinstance(a, slice):
            return slice(self.create_arg(a.start), self.create_arg(a.stop), self.create_arg(a.step))
        if isinstance(a, range):
            return range(*(int(x) for x in (a.start, a.stop, a.step)))
        return super().create_arg(a)

    def _tensor_argument(self, tensor: Tensor) -> Proxy:
        name = self.tensor_names.get(id(tensor))
        if name is not None:
            return self._get_attr(name, tensor)
        name = self._constant_names.get(id(tensor))
        if name is None:
            name = self._constant_names[id(tensor)] = f"_constant{len(self.constants)}"
            self.constants[name] = self.origin.get(id(tensor), tensor)
        return self._get_attr(name, tensor)

    def _get_attr(self, name: str, tensor: Any) -> Proxy:
        proxy = self._attributes.get(name)
        if proxy is None:
            node = self.create_node("get_attr", name, (), {})
            node.meta.update(scope="", source="")
            value = tensor
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                value = torch.empty_like(tensor, device="meta")
                self.mode.set_known(value, tensor.detach().cpu())
            self.values[node] = value
            proxy = self._attributes[name] = self._wrap(node, value)
        return proxy

    def _evaluate(self, node: fx.Node, kind: str, target: Any, args: Any, kwargs: Any, source: str) -> Any:
        self.mode.node, self.mode.source = node.name, source
        literals = None
        if kind != "call_module":
            literals = frozenset(literals_in((node.args, node.kwargs)))
        self.mode.literal_sizes = literals
        self.evaluating = True
        try:
            with self.mode:
                if kind == "call_module":
                    return _ORIGINAL_CALL(self._leaf(target), *args, **kwargs)
                if kind == "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                return call_on_meta(target, args, kwargs)
        except PruneError:
            raise
        except NotImplementedError as error:
            where = f" ({source})" if source else ""
            raise TraceError(
                f"the operation {node.format_node()} cannot run on shapes alone{where}: the size of its result depends on "
                "data, or it has no kernel for the meta device; prune the other parts with submodules=[...]"
            ) from error
        except Exception as error:
            where = f" ({source})" if source else ""
            raise TraceError(f"the operation {node.format_node()} failed on the example inputs{where}: {error}") from error
        finally:
            self.evaluating = False

    def _leaf(self, name: str) -> nn.Module:
        module = self._pure.get(name)
        if module is None:
            module = self.root.get_submodule(name)
            if name in self.lowered:
                module = pure_leaf(module, self.lowered[name])
            self._pure[name] = module
        return module

    def _name_literal_axes(self, kind: str, target: Any, args: Any, value: Any) -> None:
        """Sizes that a reshape names as numbers do not follow the input, even where they divide an axis that does."""
        name = target if kind == "call_method" else getattr(target, "__name__", "")
        if name not in ("view", "reshape", "unflatten") or not isinstance(value, Tensor):
            return
        sizes = args[1:]
        if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
            sizes = tuple(sizes[0])
        offset = 0
        if name == "unflatten":
            offset, sizes = value_of(args[1]) % (value.dim() - len(args[2]) + 1), tuple(args[2])
        axes = list(self.mode.axes(value))
        for position, size in enumerate(sizes, start=offset):
            if type(size) is int and size >= 0 and axes[position].dynamic:
                axes[position] = Axis(axes[position].size, axes[position].labels)
        self.mode.label(value, axes)

    # -- what model code asks of a proxy ------------------------------------------------------------------------------

    def size(self, proxy: Proxy, dim: int) -> Any:
        """A size as a number, or as a node where it follows the input."""
        value: Tensor = proxy.value
        dim %= value.dim()
        if not self.mode.axes(value)[dim].dynamic:
            return int(value.shape[dim])
        key = (proxy.node, dim)
        if key not in self._sizes:
            node = self.create_node("call_method", "size", (proxy.node, dim), {})
            node.meta.update(scope=self.module_names.get(id(self.scopes[-1]), ""), source=_source_line())
            self.values[node] = int(value.shape[dim])
            self._sizes[key] = self._wrap(node, int(value.shape[dim]))
        return self._sizes[key]

    def attribute(self, proxy: Proxy, name: str) -> Any:
        value = proxy.value
        if isinstance(value, Tensor) and name == "shape":
            return Sizes(self.size(proxy, d) for d in range(value.dim()))
        if not hasattr(value, name):
            raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
        found = getattr(value, name)
        if isinstance(found, (Tensor, torch.device, torch.dtype)):
            return self.create_proxy("call_function", getattr, (proxy, name), {})
        if callable(found) and not isinstance(found, type):
            return Method(proxy, name)
        return found

    def method(self, proxy: Proxy, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = proxy.value
        if isinstance(value, Tensor):
            if name == "size":
                dim = args[0] if args else kwargs.get("dim")
                return self.attribute(proxy, "shape") if dim is None else self.size(proxy, int(dim))
            if name in ("numel", "nelement"):
                return self.attribute(proxy, "shape").numel()
            if name in ("dim", "ndimension", "is_floating_point", "is_complex", "is_contiguous", "element_size"):
                return getattr(value, name)(*args, **kwargs)
            if name in ("item", "tolist", "__len__"):
                known = self.mode.known(value)
                if known is not None:
                    return getattr(known, name)(*args, **kwargs)
                raise TraceError(
                    f"the model reads values of a tensor with .{name}(): its path depends on data ({_source_line()})"
                )
        return self.create_proxy("call_method", name, (proxy, *args), kwargs)

    def concrete(self, proxy: Proxy, kind: type) -> Any:
        """The value that Python code needs right now: the graph asserts that it stays so."""
        value = proxy.value
        if proxy.node in self._of_training:
            self.branched_on_training = True
            return value
        if isinstance(value, Tensor):
            known = self.mode.known(value)
            if known is None or known.numel() != 1:
                raise TraceError(
                    f"the model's path depends on the values of the tensor {proxy.node.name!r} ({_source_line()}): "
                    "only sizes may decide it; prune the parts that do not depend on data with submodules=[...]"
                )
            return known.item()
        if kind is bool and isinstance(value, bool):
            condition: Any = proxy.node if value else ("not", proxy.node)
        else:
            condition = ("equal", proxy.node, value)
        if isinstance(value, _SCALARS):
            self._guard(proxy.node, condition, value)
        return value

    def _guard(self, node: fx.Node, condition: Any, value: Any) -> None:
        key = f"{self._expression(node)} == {value!r}"
        if key in self._guards:
            return
        self._guards.add(key)
        if isinstance(condition, tuple):
            function = operator.not_ if condition[0] == "not" else operator.eq
            held = self.create_node("call_function", function, condition[1:], {})
            self.values[held] = True
            held.meta.update(node.meta)
        else:
            held = condition
        message = f"traced for inputs where {key if len(key) < 160 else f'{node.name} == {value!r}'}"
        check = self.create_node("call_function", torch._assert, (held, message), {})
        check.meta.update(node.meta)
        self.values[check] = None

    def _expression(self, node: Any) -> str:
        if not isinstance(node, fx.Node):
            return repr(node)
        if node.op == "call_method":
            return f"{self._expression(node.args[0])}.{node.target}({', '.join(map(self._expression, node.args[1:]))})"
        if node.op == "call_function" and isinstance(self.values.get(node), _SCALARS):
            return f"{getattr(node.target, '__name__', node.target)}({', '.join(map(self._expression, node.args))})"
        return node.name

    # -- modules ------------------------------------------------------------------------------------------------------

    def module_call(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        name = self.module_names.get(id(module))
        if self.evaluating or name is None:
            return _ORIGINAL_CALL(module, *args, **kwargs)
        if _is_leaf(module):
            return self.create_proxy("call_module", name, args, kwargs)
        self.scopes.append(module)
        try:
            forward = lowered_forward(module)
            return forward(module, *args, **kwargs) if forward is not None else _ORIGINAL_CALL(module, *args, **kwargs)
        finally:
            self.scopes.pop()

    def module_attribute(self, module: nn.Module, name: str) -> Any:
        found = _ORIGINAL_GETATTR(module, name)
        if self.evaluating or not isinstance(found, Tensor) or id(found) not in self.tensor_names:
            return found
        return self._get_attr(self.tensor_names[id(found)], found)

    def training_flag(self, module: nn.Module) -> Any:
        name = self.module_names.get(id(module))
        stored = module.__dict__.get("training", True)
        if self.evaluating or name is None or isinstance(module, nn.modules.batchnorm._BatchNorm):
            # A batch norm's own code is traced as in eval and put back as one module, which knows both modes.
            return stored
        flag = self._get_attr(f"{name}.training" if name else "training", stored)
        self._of_training.add(flag.node)
        return flag

    def _batch_norm_leaf(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        """`F.batch_norm` on the statistics of the batch norm whose code is being traced is that module itself."""
        module = self.scopes[-1]
        if target is not nn.functional.batch_norm or not isinstance(module, nn.modules.batchnorm._BatchNorm):
            return None
        bound = dict(zip(("input", "running_mean", "running_var", "weight", "bias"), args, strict=False)) | kwargs
        name = self.module_names[id(module)]
        for key in ("running_mean", "running_var", "weight", "bias"):
            found, own = bound.get(key), getattr(module, key)
            if (None if found is None else found.node) is not (None if own is None else own.node):
                raise TraceError(f"the batch norm {name!r} normalises with statistics that are not its own")
        classes = [c for c in type(module).__mro__ if c.__module__.startswith("torch.nn.")]
        self.lowered[name] = classes[0]
        return "call_module", name, (bound["input"],), {}


def _is_leaf(module: nn.Module) -> bool:
    """A torch.nn module with no parts of its own and no hooks that change what it does."""
    if not type(module).__module__.startswith("torch.nn.") or isinstance(module, nn.MultiheadAttention):
        return False
    return not (module._modules or module._forward_hooks or module._forward_pre_hooks)


def is_constant(value: Any) -> bool:
    return value is not None and isinstance(value, (*_SCALARS, str))


def _source_line() -> str:
    """``file.py:12`` of the innermost frame that is neither ours nor PyTorch's."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(OWN_FILES) and "/unittest/" not in name and not name.startswith("<"):
            parts = name.replace("\\", "/").split("/")
            return f"{'/'.join(parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


OWN_FILES = (f"{Path(__file__).parents[1]}{os.sep}", f"{torch.__path__[0]}{os.sep}", mock.__file__)


@contextmanager
def patched(tracer: Recorder) -> Iterator[None]:
    """Route module calls, parameters, ``self.training`` and functions of plain numbers to the tracer."""

    def module_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return tracer.module_call(module, *args, **kwargs)

    def module_attribute(module: nn.Module, name: str) -> Any:
        return tracer.module_attribute(module, name)

    def through(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            if tracer.evaluating or not proxies_in((args, kwargs)):
                return function(*args, **kwargs)
            return tracer.create_proxy("call_function", function, args, kwargs)

        return recorded

    training = property(tracer.training_flag, lambda module, value: module.__dict__.__setitem__("training", value))
    with ExitStack() as stack:
        put = lambda owner, name, value: stack.enter_context(patch.object(owner, name, value, create=True))  # noqa: E731
        put(nn.Module, "__call__", module_call)
        put(nn.Module, "__getattr__", module_attribute)
        put(nn.Module, "training", training)
        for name in (*FACTORIES, "meshgrid", "cartesian_prod"):
            put(torch, name, through(getattr(torch, name)))
        for name in _MATH:
            put(math, name, through(getattr(math, name)))
        for name in ("max", "min"):
            put(builtins, name, through(getattr(builtins, name)))
        if tracer.proxy_class is IndexProxy:
            for owner, names in ((torch, _SIZED), (nn.functional, dir(nn.functional))):
                for name in names:
                    if isinstance(getattr(owner, name), BuiltinFunctionType):
                        put(owner, name, through(getattr(owner, name)))
        # Functions that libraries register as opaque for symbolic tracing are traced through.
        stack.enter_context(patch.dict(fx._symbolic_trace._wrapped_fns_to_patch, clear=True))
        yield
