"""Record a model's forward as one FX graph, module level, honest in train() and eval(), while labelling its axes.

The tracer works on a *skeleton*: a copy of the model whose parameters live on the meta device. Every proxy carries the
value of its node there, so that Python code which asks for a bool, a length or the items of a shape gets an answer:

* sizes that follow the model's inputs stay nodes (``x.size(2)``), so batch and resolution remain free; where Python
  branches on one, the graph asserts that the branch holds;
* all other sizes are plain numbers: they are what a rewrite changes;
* ``self.training`` is a node, and code that branches on it is traced both ways and merged (`select_mode`).

The same run labels the axes of every tensor (`fxprune.tracing.labelling.label_mode`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.errors import PruneError, TraceError, said
from fxprune.tracing.batches import settle
from fxprune.tracing.contexts.ambient import settle_questions
from fxprune.tracing.graphs.constant_names import align_constants
from fxprune.tracing.graphs.modes import merge_modes, select_mode
from fxprune.tracing.graphs.one_mode import MODES, restrict
from fxprune.tracing.labelling.interpret import drop_unread, label_outputs, labels_of, run_graph
from fxprune.tracing.labelling.label_mode import LabelMode
from fxprune.tracing.modules.hooks import check_hooks
from fxprune.tracing.modules.kept_modes import following
from fxprune.tracing.modules.part_calls import PartCall
from fxprune.tracing.modules.refused_parts import refuse_parts
from fxprune.tracing.modules.registered import Registered
from fxprune.tracing.patching import patched
from fxprune.tracing.places import line_of_error
from fxprune.tracing.plain_inputs import in_order, placeholders
from fxprune.tracing.recorder import Recorder
from fxprune.tracing.skeleton import Names, Skeleton, new_mode
from fxprune.tracing.state.assigned_buffers import assigned_buffers
from fxprune.tracing.state.carried import check_state
from fxprune.tracing.state.held import plain_tensors_as_proxies
from fxprune.tracing.state.hook_state import HookState
from fxprune.tracing.state.python_state import State
from fxprune.tracing.state.randomness import kept_apart, refuse_draws
from fxprune.tracing.uncollected import uncollected
from fxprune.tracing.undecided import Questions, check_either_way, same_graph
from fxprune.tracing.values.proxy import IndexProxy, Proxy, value_of

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
        inputs: those of `values` and `axes`, on the meta device: the example, or a larger batch of it.
        example: the example inputs on the meta device.
        names: what the parts of the skeleton are called.
        notes: what a user should know of the recording, in sentences.
        refused: a mode that could not be recorded -> why; the graph runs in the other alone.
        device: the kind of device that the model is on.
        calls: of the modules that are no leaves, in evaluation if that is recorded, in the order in which they end.
    """

    graph: fx.Graph
    skeleton: nn.Module
    mode: LabelMode
    values: dict[fx.Node, Any]
    axes: dict[fx.Node, Any]
    constants: dict[str, Tensor]
    lowered: dict[str, type[nn.Module]]
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    example: tuple[tuple[Any, ...], dict[str, Any]]
    names: Names
    notes: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    calls: list[PartCall] = field(default_factory=list)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameter or buffer name -> its meta tensor."""
        return self.names.tensors

    @cached_property
    def used(self) -> dict[str, int]:
        """Parameters, buffers and constants that the graph reads -> the order in which it does."""
        order: dict[str, int] = {}
        for node in self.graph.nodes:
            if node.op == "get_attr":
                order.setdefault(str(node.target), len(order))
            elif node.op == "call_module":
                leaf = self.names.modules[str(node.target)]
                for tensor in (*leaf._parameters.values(), *leaf._buffers.values()):
                    if tensor is not None:
                        order.setdefault(self.names.tensor_names[id(tensor)], len(order))
        return order


@uncollected()
def trace_graph(model: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Traced:
    """Trace `model` on the given inputs: their values are not read, only shapes, dtypes and structure.

    Raises:
        InputError: the model is compiled or TorchScript.
        TraceError: the forward depends on data, or does what a graph cannot hold; the message names the place.
    """
    refuse_parts(model)
    skeleton = Skeleton.of(model, inputs, in_order(model, len(inputs), kwargs or {}))
    check_hooks({name: skeleton.origin.get(id(t), t) for name, t in skeleton.names.tensors.items()})
    training = [(module, module.training) for module in skeleton.names.modules.values()]
    recorded, run, fixed = settle(skeleton, record_modes)
    for module, flag in training:
        if module.training is not flag:
            module.training = flag
    traced = _traced(recorded, run, (skeleton.args, skeleton.named))
    traced.notes.extend([fixed] if fixed else [])
    traced.notes.extend(f"{mode} could not be recorded, and is refused: {why}" for mode, why in run.refused.items())
    traced.refused.update(run.refused)
    return traced


def record_modes(skeleton: Skeleton) -> _Run:
    """The forward in evaluation, and in training where that differs; of one mode alone where the other cannot be recorded.

    Raises:
        TraceError: neither can.
    """
    runs: list[_Run] = []
    failed: list[_Failed] = []
    for training in (False, True):
        try:
            runs.append(_recorded(skeleton, training))
        except _Failed as error:
            failed.append(error)
        if not (runs or failed)[0].branched:
            break  # the modes are the same
    if not runs:
        raise failed[0].error
    if len(runs) == 2:
        try:
            return _both_modes(skeleton, *runs)
        except TraceError as error:
            failed.append(_Failed(error, runs[1].branched))
    return _one_mode(runs[0], failed[0]) if failed else runs[0]


class _Failed(Exception):
    """A mode that cannot be recorded.

    Attributes:
        error: why.
        branched: the ``training`` flags for which the model's code had asked.
    """

    def __init__(self, error: PruneError, branched: frozenset[str]) -> None:
        super().__init__(str(error))
        self.error, self.branched = error, branched


def _one_mode(run: _Run, failed: _Failed) -> _Run:
    """A run of the mode that can be recorded, whose graph refuses the other."""
    why = str(failed).splitlines()[0]
    run.values.update(restrict(run.graph, run.branched | failed.branched, run.training, why))
    return replace(run, refused={MODES[not run.training]: why})


@dataclass(frozen=True, eq=False)
class _Run:
    """One run of a skeleton: of the attributes of `Traced` those that differ from run to run."""

    graph: fx.Graph
    mode: LabelMode
    values: dict[fx.Node, Any]
    constants: dict[str, Tensor]
    lowered: dict[str, type[nn.Module]]
    training: bool = False
    branched: frozenset[str] = frozenset()
    refused: dict[str, str] = field(default_factory=dict)
    calls: list[PartCall] = field(default_factory=list)


def _recorded(skeleton: Skeleton, training: bool) -> _Run:
    """The forward in one mode. Proxies serve as numbers of plain Python only where the model's code fails otherwise.

    Raises:
        _Failed: it cannot be recorded.
    """
    skeleton.module.train(training)
    recorder = Recorder(skeleton, new_mode(skeleton), Proxy)
    try:
        with kept_apart() as drawn:
            try:
                run = _record(recorder, training)
            except TypeError as error:
                if "Proxy" not in str(error):
                    raise
                recorder = Recorder(skeleton, new_mode(skeleton), IndexProxy)
                run = _record(recorder, training)
            settle_questions(recorder, lambda other: _record(other, training).graph)
            if drawn():
                refuse_draws(lambda: _record(Recorder(skeleton, new_mode(skeleton), recorder.proxy_class), training))
            return run
    except PruneError as error:
        raise _Failed(error, following(recorder.branched, skeleton.module)) from error
    except Exception as error:
        found = TraceError(
            f"{type(skeleton.module).__name__} cannot be traced whole ({line_of_error(error)}): {type(error).__name__}: "
            f"{said(error)}; check the example inputs, or prune the parts that can be traced with submodules=[...]"
        )
        found.__cause__ = error
        raise _Failed(found, following(recorder.branched, skeleton.module)) from error


def _record(recorder: Recorder, training: bool) -> _Run:
    """One run of the model's code, which leaves no trace in the objects around it."""
    before = Registered(recorder.names.modules)
    try:
        run = _first_call(recorder, training)
        recorder.registers = before.changed()
        if (recorder.changes or recorder.registers) and recorder.questions.answers is None:

            def again() -> tuple[_Run, Recorder]:
                other = recorder.again(Questions(()))
                return _record(other, training), other

            with State(recorder.names.modules):
                check_state(recorder, again, lambda other: same_graph(run, other, narrower=True))
    finally:
        before.put_back()
    if not check_either_way(run, recorder.questions, lambda questions: _record(recorder.again(questions), training)):
        return run
    mode = new_mode(recorder.skeleton)  # without the labels of what was asked
    return replace(run, mode=mode, values=run_graph(run.graph, recorder.skeleton, mode, run.constants, run.lowered))


def _first_call(recorder: Recorder, training: bool) -> _Run:
    """What one call of the model does. The hooks and parts that it registers stay; what else it wrote is put back."""
    skeleton, mode, modules = recorder.skeleton, recorder.mode, recorder.names.modules
    others = HookState(modules)
    with others, torch.inference_mode(), patched(recorder), plain_tensors_as_proxies(recorder), State(modules) as state:
        args, named = placeholders(recorder)
        with assigned_buffers(recorder):
            result = skeleton.module(*args, **named)
        recorder.contexts.finish()
        output = recorder.graph.output(recorder.create_arg(result))
        value = nested.map(value_of, result)
        del result, args, named
        recorder.calls.shown.check(modules, recorder.kept, (holder for _, holder, _ in state.held))
        recorder.changes = state.changes()
    output.meta.update(scope="", source="")
    recorder.values[output] = value
    if not nested.tensors(value):
        raise TraceError(f"the forward of {type(skeleton.module).__name__} returns no tensor that a graph could compute")
    label_outputs(mode, value)
    drop_unread(recorder.graph)
    branched = following(recorder.branched, skeleton.module)
    constants, calls = recorder.constants, recorder.calls.parts.calls
    return _Run(recorder.graph, mode, recorder.values, constants, recorder.lowered, training, branched, calls=calls)


def _both_modes(skeleton: Skeleton, evaluation: _Run, training: _Run) -> _Run:
    """The runs of the two modes as one, whose labels hold in both."""
    skeleton.module.eval()
    branched = evaluation.branched | training.branched
    constants = align_constants(training.graph, training.constants, evaluation.constants, skeleton.names.all_tensors)
    constants |= evaluation.constants
    made: dict[fx.Node, fx.Node] = {}
    graph, mode = merge_modes(evaluation.graph, training.graph, branched, made), new_mode(skeleton)
    lowered = evaluation.lowered | training.lowered
    values = run_graph(graph, skeleton, mode, constants, lowered)
    drop_unread(graph)
    calls = [call.moved(made) for call in evaluation.calls]
    return _Run(graph, mode, values, constants, lowered, branched=branched, calls=calls)


def _traced(skeleton: Skeleton, run: _Run, example: tuple[tuple[Any, ...], dict[str, Any]]) -> Traced:
    """A run with the labels of its values, without those of nodes that went."""
    values = {node: run.values[node] for node in run.graph.nodes}
    axes = {node: labels_of(run.mode, value) for node, value in values.items()}
    used = {str(n.target) for n in run.graph.nodes if n.op == "get_attr"}
    constants = {name: value for name, value in run.constants.items() if name in used}
    inputs, lowered = (skeleton.args, skeleton.named), run.lowered
    traced = Traced(run.graph, skeleton.module, run.mode, values, axes, constants, lowered, inputs, example, skeleton.names)
    traced.device, traced.calls = skeleton.device, [call.within(values.keys()) for call in run.calls]
    return traced
