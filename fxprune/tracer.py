"""Record a model's forward as one FX graph, module level, honest in train() and eval(), while labelling its axes.

The tracer works on a *skeleton*: a copy of the model whose parameters live on the meta device. Every proxy carries the
value of its node there, so that Python code which asks for a bool, a length or the items of a shape gets an answer:

* sizes that follow the model's inputs stay nodes (``x.size(2)``), so batch and resolution remain free; where Python
  branches on one, the graph asserts that the branch holds;
* all other sizes are plain numbers: they are what a rewrite changes;
* ``self.training`` is a node, and code that branches on it is traced both ways and merged (`select_mode`).

The same run labels the axes of every tensor (`fxprune.propagate`).
"""

from __future__ import annotations

import builtins
import functools
import math
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any
from unittest import mock
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from fxprune.errors import InputError, PruneError, TraceError
from fxprune.graph_run import FACTORIES, call_on_meta, keeps, label_outputs, labels_of, literals_in, run_graph
from fxprune.labels import Axis
from fxprune.lowering import lowered_forward, pure_leaf
from fxprune.modes import merge_modes, select_mode
from fxprune.propagate import LabelMode
from fxprune.proxy import IndexProxy, Method, Proxy, Sizes, is_proxy, proxies_in, value_of
from fxprune.skeleton import new_mode, skeleton_of, tensor_names, to_meta

__all__ = ["Traced", "select_mode", "trace_graph"]

_SCALARS = (bool, int, float, complex)
_MATH = tuple(n for n in dir(math) if not n.startswith("_") and callable(getattr(math, n)))
# C functions that take sizes; those of torch.nn.functional are found.
_SIZED = ("reshape", "narrow", "tile", "broadcast_to", "roll", "select", "unflatten", "flatten", "chunk", "permute",
          "split_with_sizes", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle")  # fmt: skip
_ORIGINAL_CALL = nn.Module.__call__
_ORIGINAL_GETATTR = nn.Module.__getattr__


@dataclass(eq=False)
class Traced:
    """A graph with what its run on the meta device showed.

    Attributes:
        graph: the FX graph; call_module and get_attr targets are names in the original model.
        skeleton: the model on the meta device.
        mode: the labels.
        values: node -> value on the meta device (tensors, numbers, tuples of them).
        axes: node -> labels of its tensor value, or a nested tuple of them.
        constants: name -> tensor made outside the graph that it reads.
        lowered: module name -> torch.nn class that stands for it.
        inputs: the example inputs on the meta device.
        tensors: parameter or buffer name -> its meta tensor.
    """

    graph: fx.Graph
    skeleton: nn.Module
    mode: LabelMode
    values: dict[fx.Node, Any]
    axes: dict[fx.Node, Any]
    constants: dict[str, Tensor]
    lowered: dict[str, type[nn.Module]]
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    tensors: dict[str, Tensor]


class _Tracer(fx.Tracer):
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

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, name: Any = None, type_expr: Any = None,
                     proxy_factory_fn: Any = None) -> Any:  # fmt: skip
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
        if _is_constant(value) and not dynamic and kind != "get_attr":
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
                raise TraceError(f"the model reads values of a tensor with .{name}(): its path depends on data"
                                 f" ({_source_line()})")  # fmt: skip
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


def _is_constant(value: Any) -> bool:
    return value is not None and isinstance(value, (*_SCALARS, str))


def _source_line() -> str:
    """``file.py:12`` of the innermost frame that is neither ours nor PyTorch's."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_OWN) and "/unittest/" not in name and not name.startswith("<"):
            parts = name.replace("\\", "/").split("/")
            return f"{'/'.join(parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


_OWN = (f"{Path(__file__).parent}{os.sep}", f"{torch.__path__[0]}{os.sep}", mock.__file__)


@contextmanager
def _patched(tracer: _Tracer) -> Iterator[None]:
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


def trace_graph(model: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Traced:
    """Trace `model` on the given inputs: their values are not read, only shapes, dtypes and structure.

    Raises:
        InputError: the model is compiled or TorchScript.
        TraceError: the forward depends on data, or does what a graph cannot hold; the message names the place.
    """
    _refuse_compiled(model)
    skeleton, origin = skeleton_of(model)
    training = {id(m): m.training for m in skeleton.modules()}
    args, named = tuple(to_meta(tuple(inputs))), to_meta(dict(kwargs or {}))
    traced, branched = _trace_once(skeleton, origin, args, named, training=False)
    if branched:
        other, _ = _trace_once(skeleton, origin, args, named, training=True)
        skeleton.eval()
        graph = merge_modes(traced.graph, other.graph)
        mode = new_mode(skeleton, origin)
        constants = {**other.constants, **traced.constants}
        placeholders = [*args, *named.values()]
        values = run_graph(graph, skeleton, mode, placeholders, constants, traced.lowered | other.lowered)
        traced = _finish(graph, skeleton, mode, values, constants, traced.lowered | other.lowered, (args, named))
    for module in skeleton.modules():
        module.training = training[id(module)]
    return traced


def _refuse_compiled(model: nn.Module) -> None:
    """Compiled code has no Python forward to record."""
    for name, part in model.named_modules():
        what = f"the part {name!r}" if name else "the model"
        if isinstance(part, torch.jit.ScriptModule):
            raise InputError(f"{what} is TorchScript, which holds no Python code: give the nn.Module that it was made from")
        if isinstance(getattr(part, "_orig_mod", None), nn.Module):  # what torch.compile returns
            raise InputError(f"{what} is compiled: give the module inside, its ._orig_mod, and compile the result")


def _trace_once(
    skeleton: nn.Module, origin: Mapping[int, Tensor], args: tuple[Any, ...], named: dict[str, Any], training: bool,
    proxy_class: type[Proxy] = Proxy,
) -> tuple[Traced, bool]:  # fmt: skip
    skeleton.train(training)
    mode = new_mode(skeleton, origin)
    tracer = _Tracer(skeleton, mode, origin, proxy_class)
    names = [*_argument_names(skeleton, args, named), *named]
    with torch.inference_mode(), _patched(tracer):
        made = [_placeholder(tracer, name, value) for name, value in zip(names, (*args, *named.values()), strict=True)]
        try:
            result = type(skeleton).forward(skeleton, *made[: len(args)], **dict(zip(named, made[len(args) :], strict=True)))
            output = tracer.graph.output(tracer.create_arg(result))
        except PruneError:
            raise
        except Exception as error:
            if proxy_class is Proxy and isinstance(error, TypeError) and "Proxy" in str(error):
                return _trace_once(skeleton, origin, args, named, training, IndexProxy)
            kind = type(skeleton).__name__
            raise TraceError(
                f"{kind} cannot be traced whole ({_where(error)}): {type(error).__name__}: {error}; check the example "
                "inputs, or prune the parts that can be traced with submodules=[...]"
            ) from error
        output.meta.update(scope="", source="")
        tracer.values[output] = map_aggregate(result, value_of)
        if next(_tensors_of(tracer.values[output]), None) is None:
            raise TraceError(f"the forward of {type(skeleton).__name__} returns no tensor that a graph could compute")
        label_outputs(mode, tracer.values[output])
    traced = _finish(tracer.graph, skeleton, mode, tracer.values, tracer.constants, tracer.lowered, (args, named))
    return traced, tracer.branched_on_training


def _argument_names(skeleton: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> list[str]:
    """The parameter names of forward that the positional inputs fill."""
    import inspect

    parameters = list(inspect.signature(type(skeleton).forward).parameters.values())[1:]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    if rest is not None:
        names += [f"{rest}_{i}" for i in range(len(args))]
    if len(args) > len(names):
        raise InputError(f"forward takes {len(names)} positional inputs ({', '.join(names)}), but {len(args)} are given")
    return names[: len(args)]


def _placeholder(tracer: _Tracer, name: str, value: Any) -> Any:
    """A proxy for an input; containers of tensors become containers of proxies."""
    node = tracer.create_node("placeholder", name, (), {})
    node.meta.update(scope="", source="")
    tracer.values[node] = value
    for tensor in _tensors_of(value):
        tracer.mode.label(tensor, [Axis(int(s), None, True) for s in tensor.shape])
    return value if _is_constant(value) else tracer._wrap(node, value)


def _tensors_of(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors_of(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_of(item)


def _where(error: BaseException) -> str:
    """The innermost line of model code in an error's traceback."""
    place, frames = "", error.__traceback__
    while frames is not None:
        name = frames.tb_frame.f_code.co_filename
        if not name.startswith(_OWN):
            place = f"{'/'.join(name.split('/')[-2:])}:{frames.tb_lineno}"
        frames = frames.tb_next
    return place


def _finish(graph: fx.Graph, skeleton: nn.Module, mode: LabelMode, values: dict[fx.Node, Any],
            constants: dict[str, Tensor], lowered: dict[str, type[nn.Module]], inputs: Any) -> Traced:  # fmt: skip
    graph.eliminate_dead_code(is_impure_node=keeps)
    live = set(graph.nodes)
    values = {node: value for node, value in values.items() if node in live}
    axes = {node: labels_of(mode, value) for node, value in values.items()}
    used = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    tensors = dict(skeleton.named_parameters()) | dict(skeleton.named_buffers())
    constants = {name: value for name, value in constants.items() if name in used}
    return Traced(graph, skeleton, mode, values, axes, constants, lowered, inputs, tensors)
