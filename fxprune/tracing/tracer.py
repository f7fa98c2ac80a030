"""Record a model's forward as one FX graph, module level, honest in train() and eval(), while labelling its axes.

The tracer works on a *skeleton*: a copy of the model whose parameters live on the meta device. Every proxy carries the
value of its node there, so that Python code which asks for a bool, a length or the items of a shape gets an answer:

* sizes that follow the model's inputs stay nodes (``x.size(2)``), so batch and resolution remain free; where Python
  branches on one, the graph asserts that the branch holds;
* all other sizes are plain numbers: they are what a rewrite changes;
* ``self.training`` is a node, and code that branches on it is traced both ways and merged (`select_mode`).

The same run labels the axes of every tensor (`fxprune.tracing.label_mode`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from fxprune import nested
from fxprune.errors import InputError, PruneError, TraceError
from fxprune.labels.store import Axis
from fxprune.tracing.interpret import keeps, label_outputs, labels_of, run_graph
from fxprune.tracing.label_mode import LabelMode
from fxprune.tracing.modes import merge_modes, select_mode
from fxprune.tracing.proxy import IndexProxy, Proxy, value_of
from fxprune.tracing.recorder import OWN_FILES, Recorder, is_constant, patched
from fxprune.tracing.skeleton import new_mode, skeleton_of, to_meta

__all__ = ["Traced", "select_mode", "trace_graph"]


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

    @cached_property
    def used(self) -> dict[str, int]:
        """Parameters, buffers and constants that the graph reads -> the order in which it does."""
        order: dict[str, int] = {}
        identity = {id(t): n for n, t in reversed(self.tensors.items())}
        modules = dict(self.skeleton.named_modules(remove_duplicate=False))
        for node in self.graph.nodes:
            if node.op == "get_attr":
                order.setdefault(str(node.target), len(order))
            elif node.op == "call_module":
                leaf = modules[str(node.target)]
                for tensor in (*leaf._parameters.values(), *leaf._buffers.values()):
                    if tensor is not None:
                        order.setdefault(identity[id(tensor)], len(order))
        return order


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
    skeleton: nn.Module,
    origin: Mapping[int, Tensor],
    args: tuple[Any, ...],
    named: dict[str, Any],
    training: bool,
    proxy_class: type[Proxy] = Proxy,
) -> tuple[Traced, bool]:
    skeleton.train(training)
    mode = new_mode(skeleton, origin)
    tracer = Recorder(skeleton, mode, origin, proxy_class)
    names = [*_argument_names(skeleton, args, named), *named]
    with torch.inference_mode(), patched(tracer):
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
        if not nested.tensors(tracer.values[output]):
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


def _placeholder(tracer: Recorder, name: str, value: Any) -> Any:
    """A proxy for an input; containers of tensors become containers of proxies."""
    node = tracer.create_node("placeholder", name, (), {})
    node.meta.update(scope="", source="")
    tracer.values[node] = value
    for tensor in nested.tensors(value):
        tracer.mode.label(tensor, [Axis(int(s), None, True) for s in tensor.shape])
    return value if is_constant(value) else tracer._wrap(node, value)


def _where(error: BaseException) -> str:
    """The innermost line of model code in an error's traceback."""
    place, frames = "", error.__traceback__
    while frames is not None:
        name = frames.tb_frame.f_code.co_filename
        if not name.startswith(OWN_FILES):
            place = f"{'/'.join(name.split('/')[-2:])}:{frames.tb_lineno}"
        frames = frames.tb_next
    return place


def _finish(
    graph: fx.Graph,
    skeleton: nn.Module,
    mode: LabelMode,
    values: dict[fx.Node, Any],
    constants: dict[str, Tensor],
    lowered: dict[str, type[nn.Module]],
    inputs: Any,
) -> Traced:
    graph.eliminate_dead_code(is_impure_node=keeps)
    live = set(graph.nodes)
    values = {node: value for node, value in values.items() if node in live}
    axes = {node: labels_of(mode, value) for node, value in values.items()}
    used = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    tensors = dict(skeleton.named_parameters()) | dict(skeleton.named_buffers())
    constants = {name: value for name, value in constants.items() if name in used}
    return Traced(graph, skeleton, mode, values, axes, constants, lowered, inputs, tensors)
