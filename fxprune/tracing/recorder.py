"""The recorder behind `fxprune.tracing.tracer`: every operation on a proxy becomes a node, and runs on the meta device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fxprune.errors import PruneError, TraceError, said
from fxprune.tracing.contexts.entering import Contexts
from fxprune.tracing.graphs.constant_names import fresh
from fxprune.tracing.graphs.guards import NUMBERS, SCALARS, is_constant
from fxprune.tracing.labelling.interpret import Runner, name_literal_axes
from fxprune.tracing.labelling.label_mode import LabelMode
from fxprune.tracing.modules.attention import lowered_function
from fxprune.tracing.modules.module_calls import ModuleCalls
from fxprune.tracing.places import line_running, place_running
from fxprune.tracing.skeleton import Skeleton, new_mode
from fxprune.tracing.swallowed import swallowed
from fxprune.tracing.undecided import Questions
from fxprune.tracing.values.answers import Answers
from fxprune.tracing.values.keywords import by_place
from fxprune.tracing.values.objects import made, made_by_node
from fxprune.tracing.values.proxy import Method, Proxy, is_proxy, proxy_of

__all__ = ["Recorder"]


class Recorder(Answers):
    """Records one run of a skeleton; `fxprune.tracing.patching.patched` routes what the model's code does to it.

    Invariant: every node of the graph has a value. An operation whose result is a plain constant (a number that does not
    follow the inputs, a text) leaves no node, and neither does one that fails.

    Attributes:
        values: node -> value on the meta device.
        constants: name -> tensor that the model makes or holds outside its state.
        lowered: module name -> torch.nn class that stands for it.
        branched: names of the ``training`` flags for which the model's code asked as a bool.
        calls: what calls of modules, their tensors and their modes become.
        contexts: which contexts the model's code is in.
        changes: what forward wrote into Python objects (`fxprune.tracing.state.python_state.State.changes`).
        registers: where forward added hooks or parts, or took them away (`fxprune.tracing.modules.registered`).
        evaluating: a node runs on the meta device right now, and what it calls is not recorded.
    """

    def __init__(self, skeleton: Skeleton, mode: LabelMode, proxy_class: type[Proxy]) -> None:
        super().__init__()
        self.skeleton, self.names, self.mode, self.proxy_class = skeleton, skeleton.names, mode, proxy_class
        self.device_type = next((t.device.type for t in skeleton.origin.values()), "cpu")
        self.root = skeleton.module
        self.graph = fx.Graph(tracer_cls=fx.Tracer)
        self.graph._graph_namespace.create_name("self", None)  # a part of that name would hide the module in the code
        self.values: dict[fx.Node, Any] = {}
        self.constants: dict[str, Tensor] = {}
        self.lowered: dict[str, type[nn.Module]] = {}
        self.changes: list[Any] = []
        self.registers: tuple[str, str] | None = None
        self.evaluating = False
        self.calls = ModuleCalls(self)
        self.contexts = Contexts()
        self.run_node = Runner(skeleton, mode, self.lowered)
        self._attributes: dict[str, Any] = {}
        self._constant_names: dict[int, str] = {}
        self._met: list[Tensor] = []  # kept, so that their ids stay their own

    def again(self, questions: Questions) -> Recorder:
        """A recorder of the same forward, with other answers to what it asks."""
        made = Recorder(self.skeleton, new_mode(self.skeleton), self.proxy_class)
        made.questions = questions
        return made

    # -- nodes ------------------------------------------------------------------------------------------------------

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, name: Any = None, *unused: Any) -> Any:
        """Record an operation: a proxy of its result, or the result itself where it is a constant."""
        if target is nn.functional.batch_norm:
            kind, target, args, kwargs = self.calls.batch_norm(target, args, kwargs)
        plain = lowered_function(target)
        if plain is not None:
            return plain(*args, **kwargs)
        if kwargs:
            args, kwargs = by_place(kind, target, args, kwargs)
        if kind == "call_method" and target in ("view", "reshape") and is_proxy(args[0]):
            for dim in swallowed(args[0].value, self.mode.axes(args[0].value), args[1:]):
                self.concrete(self.size(args[0], dim))
        named = {k: self.create_arg(v) for k, v in kwargs.items()} if kwargs else {}
        node = self._node(kind, target, self.create_arg(args), named, name)
        args, kwargs = map_arg((node.args, node.kwargs), self.values.__getitem__)
        value = self._evaluated(node, args, kwargs)
        inputs = node.all_input_nodes
        dynamic = any(isinstance(self.values[n], NUMBERS) for n in inputs)
        if is_constant(value) and not dynamic:
            self.graph.erase_node(node)
            return value
        name_literal_axes(self.mode, node, args, value)
        if dynamic and isinstance(value, SCALARS) and all(n in self.of_training for n in inputs):
            self.of_training.add(node)
        if value is None:  # of a function that returns several, or nothing
            self.values[node] = None
            return None
        return self.wrap(node, value)

    def _node(self, kind: str, target: Any, args: Any, kwargs: Any = None, name: Any = None) -> fx.Node:
        node = self.graph.create_node(kind, target, args, kwargs, name)
        node.meta["scope"] = self.names.module_names.get(id(self.calls.scopes[-1]), "")
        node.meta["source"], node.meta["place"] = place_running()
        node.meta["calls"] = self.calls.running
        self.contexts.mark(node)
        return node

    def wrap(self, node: fx.Node, value: Any) -> Any:
        """A proxy of a new node, whose value is known."""
        self.values[node] = value
        proxy = proxy_of(self, node, value)
        self.calls.shown.note(proxy)
        return proxy

    @property
    def kept(self) -> list[Any]:
        """The proxies that are made once: of sizes, tensors and flags."""
        return [*self._attributes.values(), *self._sizes.values()]

    def create_arg(self, a: Any) -> Any:
        """What stands for a value among the arguments of a node."""
        kind = type(a)
        if is_proxy(a):
            return a.node
        if kind in (int, str, float, bool, type(None)):
            return a
        if kind is tuple:
            return tuple([self.create_arg(x) for x in a])
        if kind is Method:
            raise TraceError(f"the method {a.name!r} of a tensor is passed around uncalled, which a graph cannot hold")
        if isinstance(a, nn.Module):
            raise TraceError(f"the module {self.names.module_names.get(id(a), kind.__name__)!r} is passed to a function")
        if isinstance(a, Tensor):
            return self.tensor_argument(a).node
        if made_by_node(a):
            return self.create_proxy("call_function", *made(a), {}).node
        if isinstance(a, dict):
            return {k: self.create_arg(v) for k, v in a.items()}
        if isinstance(a, (list, tuple)):
            items = [self.create_arg(x) for x in a]
            if hasattr(a, "_fields"):
                return kind(*items)
            return items if isinstance(a, list) else tuple(items)
        if isinstance(a, slice):
            return slice(*(self.create_arg(x) for x in (a.start, a.stop, a.step)))
        if isinstance(a, range):
            return range(*(int(x) for x in (a.start, a.stop, a.step)))
        if isinstance(a, np.generic):
            return a.item()
        try:
            return super().create_arg(a)
        except NotImplementedError as error:
            what = getattr(a, "__qualname__", "") or f"an object of {kind.__module__}.{kind.__qualname__}"
            raise TraceError(
                f"{what} is an argument of an operation, or an output ({line_running()}), which a graph cannot hold: give it "
                "tensors and numbers, or prune the other parts with submodules=[...]"
            ) from error

    def tensor_argument(self, tensor: Tensor) -> Any:
        name = self.names.tensor_names.get(id(tensor)) or self._constant_names.get(id(tensor))
        if name in self.constants and not tensor.is_meta and not torch.equal(self.constants[name], tensor):
            name = None  # forward wrote into it since
        if name is None:
            if tensor.is_meta and id(tensor) not in self.skeleton.origin:
                raise TraceError(
                    f"a tensor that a function of C made of the model's values, outside the graph, is used ({line_running()}): "
                    "compute it with functions of torch, or prune the other parts with submodules=[...]"
                )
            name = fresh(f"_constant{len(self.constants)}", self.names.all_tensors, self.names.modules, self.constants)
            self._constant_names[id(tensor)] = name
            origin = self.skeleton.origin.get(id(tensor))
            self.constants[name] = tensor.detach().clone() if origin is None else origin
            self._met.append(tensor)
        proxy = self.get_attr(name, tensor if tensor.is_meta else self.constants[name])
        real = self.constants.get(name)
        if real is not None and not real.is_meta and self.mode.known(proxy.value) is None:
            self.mode.set_known(proxy.value, real.detach().cpu())
        return proxy

    def get_attr(self, name: str, value: Any) -> Any:
        """The proxy of a tensor or a flag of the model, one node for all its uses; a real tensor is known on meta."""
        proxy = self._attributes.get(name)
        if proxy is None:
            node = self.graph.create_node("get_attr", name)
            node.meta.update(scope="", source="")
            if isinstance(value, Tensor) and value.device.type != "meta":
                real, value = value, torch.empty_like(value, device="meta")
                self.mode.set_known(value, real.detach().cpu())
            proxy = self._attributes[name] = self.wrap(node, value)
        return proxy

    def _evaluated(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """The value of a node; a node that has none is taken back.

        Raises:
            TraceError: it cannot be computed on the meta device.
        """
        source = node.meta["source"]
        self.evaluating = True
        try:
            return self.run_node(node, args, kwargs)
        except Exception as error:
            what, where = f"{node.format_node():.400}", f" ({source})" if source else ""
            self.graph.erase_node(node)
            if isinstance(error, PruneError):
                raise
            if isinstance(error, NotImplementedError) or node.target is torch._pack_padded_sequence:  # which reads lengths
                raise TraceError(
                    f"the operation {what} cannot run on shapes alone{where}: the size of its result depends on data, or it "
                    "has no kernel for the meta device; prune the other parts with submodules=[...]"
                ) from error
            raise TraceError(f"the operation {what} failed on the example inputs{where}: {said(error)}") from error
        finally:
            self.evaluating = False
