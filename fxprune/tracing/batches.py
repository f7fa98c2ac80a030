"""The batch of a recording is free: a batch of one is recorded as a larger one.

Of one sample, the axis of the batch looks like any axis of one entry: views, squeezes and broadcasts lose it. So inputs whose
first axis (or second, where sequences come before samples) has one entry are recorded with more, and what the model's code
asked of the batch is put to the test at the user's own size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fxprune import nested
from fxprune.errors import PruneError
from fxprune.tracing.graphs.guards import SCALARS
from fxprune.tracing.labelling.interpret import Runner, attribute_on_meta, drop_unread
from fxprune.tracing.labelling.label_mode import LabelMode
from fxprune.tracing.one_question import one_question, place_of
from fxprune.tracing.skeleton import Skeleton
from fxprune.tracing.values.known_values import numbers_behind

__all__ = ["settle"]

_SIZES = (2, 3, 5, 7)  # of a larger batch: the first that no axis of the inputs has
_MOVING = (
    "expand",
    "expand_as",
    "broadcast_to",
    "repeat",
    "tile",
    "view",
    "reshape",
)  # which keep entries where the shape stays


class Run(Protocol):
    """A recording: what `fxprune.tracing.tracer` makes of a skeleton."""

    @property
    def graph(self) -> fx.Graph: ...
    @property
    def values(self) -> dict[fx.Node, Any]: ...
    @property
    def constants(self) -> dict[str, Tensor]: ...
    @property
    def lowered(self) -> dict[str, type[nn.Module]]: ...


Made = TypeVar("Made", bound=Run)


def settle(skeleton: Skeleton, record: Callable[[Skeleton], Made]) -> tuple[Skeleton, Made, str]:
    """Record a skeleton so that its batch is free, where the model allows it.

    Returns:
        The skeleton that was recorded, the recording, and for which batches it holds and why (empty where for all).

    Raises:
        TraceError: the model cannot be recorded on its own inputs.
    """
    why = ""
    for larger in _larger_batches(skeleton):
        try:
            run = record(larger)
        except PruneError as error:
            why = why or f"no recording of a larger batch was possible: {str(error).splitlines()[0]}"
            continue
        found = _differs(run, skeleton, record)
        if found is None:
            return larger, run, ""
        seen = f" ({found})" if found else ""
        why = f"the model's code does otherwise for one sample than for more{seen}; record those with an example of several"
        break
    run = record(skeleton)
    if why and _batch_axis(_tensors(skeleton)) == 0:
        _assert_one(run, skeleton)
        return skeleton, run, f"the first axis of the inputs stays at 1, as in the example: {why}"
    small = _of_batch_one(skeleton) if not why and _asks_batch(run) else None
    found = None if small is None else _differs(run, small, record)
    note = f"only numbers of samples are taken for which {found}, as the model's code asks" if found else ""
    return skeleton, run, note


def _larger_batches(skeleton: Skeleton) -> Iterator[Skeleton]:
    """The skeleton with larger inputs to try in turn; none where the batch is more than one already."""
    tensors = _tensors(skeleton)
    axis = _batch_axis(tensors)
    if axis is None:
        return
    taken = {int(n) for t in tensors for n in t.shape}
    size = next((n for n in _SIZES if n not in taken), _SIZES[-1])
    alike = [t for t in tensors if t.dim() > axis and t.shape[axis] == 1 and (axis == 0 or t.dim() == 3)]
    yield _resized(skeleton, alike, axis, size)
    if len(alike) > 1:
        yield _resized(skeleton, alike[:1], axis, size)


def _of_batch_one(skeleton: Skeleton) -> Skeleton | None:
    """The skeleton with one sample, where all that come in a batch are as many; None where that is not to be told."""
    tensors = _tensors(skeleton)
    if not tensors or tensors[0].shape[0] == 1:
        return None
    alike = [t for t in tensors if t.shape[0] == tensors[0].shape[0]]
    return _resized(skeleton, alike, 0, 1)


def _tensors(skeleton: Skeleton) -> list[Tensor]:
    return [t for t in nested.tensors((skeleton.args, skeleton.named)) if t.dim()]


def _batch_axis(tensors: list[Tensor]) -> int | None:
    """The axis of one entry that may be the batch: the first one, or the second of sequences ``[time, batch, features]``."""
    first = next((t for t in tensors if t.dim() > 1), tensors[0] if tensors else None)
    if first is None:
        return None
    if first.shape[0] == 1:
        return 0
    return 1 if first.dim() == 3 and first.shape[1] == 1 else None


def _resized(skeleton: Skeleton, tensors: list[Tensor], axis: int, size: int) -> Skeleton:
    chosen = {id(t) for t in tensors}

    def resize(value: Any) -> Any:
        if not isinstance(value, Tensor) or id(value) not in chosen:
            return value
        shape = [size if d == axis else n for d, n in enumerate(value.shape)]
        return torch.empty(shape, dtype=value.dtype, device="meta")

    made = replace(skeleton, args=nested.map(resize, skeleton.args), named=nested.map(resize, skeleton.named))
    made.__dict__["names"] = skeleton.names  # of the same module: found once
    return made


class _Trial:
    """The graph of a recording, run on the shapes of another skeleton.

    Attributes:
        values: node -> value there.
        failed: the assertions that do not hold there.
        broken: the graph does not run there.
    """

    def __init__(self, run: Run, skeleton: Skeleton) -> None:
        self.values: dict[fx.Node, Any] = {}
        self.failed: list[fx.Node] = []
        self.broken = False
        mode = LabelMode()
        run_node = Runner(skeleton, mode, run.lowered)
        given = iter((*skeleton.args, *skeleton.named.values()))
        try:
            with torch.inference_mode():
                for node in run.graph.nodes:
                    if node.op == "placeholder":
                        self.values[node] = next(given)
                    elif node.op == "get_attr":
                        self.values[node] = attribute_on_meta(skeleton.module, mode, str(node.target), run.constants)
                    elif node.op != "output":
                        self.values[node] = self._run(node, run_node)
        except Exception:  # whatever an operator raises on sizes that it does not take
            self.broken = True

    def batches(self, run: Run) -> tuple[int, int]:
        """The number of samples of the recording, and here."""
        inputs = [n for n in run.graph.nodes if n.op == "placeholder"]
        pairs = zip(*(nested.tensors([values[n] for n in inputs]) for values in (run.values, self.values)), strict=True)
        return next((a, b) for here, there in pairs for a, b in zip(here.shape, there.shape, strict=True) if a != b)

    def _run(self, node: fx.Node, run_node: Runner) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), self.values.__getitem__)
        if node.target is torch._assert:
            if not args[0]:
                self.failed.append(node)
            return None
        return run_node(node, args, kwargs)


def _differs(run: Made, other: Skeleton, record: Callable[[Skeleton], Made]) -> str | None:
    """What a recording asks that another skeleton's sizes do not meet (empty where that is not known); None where it holds.

    An assertion that says which way a branch went may fail there: if the model's code, recorded there, comes to the same
    operations on tensors, the branch made no difference, and the assertion goes.
    """
    if not _asks_batch(run):
        return None
    trial = _Trial(run, other)
    if not trial.failed and not trial.broken:
        return None
    place = place_of(trial.failed[0]) if trial.failed else ""
    if trial.broken or not all(n.meta.get("branch") for n in trial.failed):
        return place
    if not one_question(trial.failed, run.values, trial.values, trial.batches(run)):
        return place
    try:
        own = record(other)
    except PruneError:
        return place
    if not _agree(trial, run, own):
        return place
    for node in trial.failed:
        run.graph.erase_node(node)
    drop_unread(run.graph)
    return None


def _asks_batch(run: Run) -> bool:
    """Whether an assertion of a graph may be about the batch: the size of a first or second axis has a part in it."""
    pending = [n for n in run.graph.nodes if n.target is torch._assert]
    seen = set(pending)
    while pending:
        asked = pending.pop()
        for node in numbers_behind(asked, run.values) if asked.target == "item" else asked.all_input_nodes:
            if node in seen or not isinstance(run.values.get(node), SCALARS):
                continue
            seen.add(node)
            pending.append(node)
            if node.op == "call_method" and node.target == "size" and node.args[1:] in ((0,), (1,)):
                return True
    return False


def _agree(trial: _Trial, run: Run, own: Run) -> bool:
    """Whether two recordings do the same operations on tensors at the sizes of the second one."""

    left, left_same = _on_tensors(run.graph, trial.values)
    right, right_same = _on_tensors(own.graph, own.values)
    table: dict[fx.Node, fx.Node] = {}

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, fx.Node) and (a := left_same.get(a, a)) in table:
            return isinstance(b, fx.Node) and table[a] is right_same.get(b, b)
        a = trial.values.get(a) if isinstance(a, fx.Node) else a
        b = own.values.get(b) if isinstance(b, fx.Node) else b
        if isinstance(a, (list, tuple)):
            return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, Mapping):
            return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        if isinstance(a, slice):
            return isinstance(b, slice) and all(map(same, (a.start, a.stop, a.step), (b.start, b.stop, b.step)))
        return not isinstance(a, Tensor) and type(a) is type(b) and bool(a == b)

    if len(left) != len(right):
        return False
    for a, b in zip(left, right, strict=True):
        if (a.op, a.target) != (b.op, b.target) or not same((a.args, dict(a.kwargs)), (b.args, dict(b.kwargs))):
            return False
        table[a] = b
    return True


def _on_tensors(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> tuple[list[fx.Node], dict[fx.Node, fx.Node]]:
    """The nodes that compute tensors; and those that change nothing at these sizes -> what they pass on."""
    nodes: list[fx.Node] = []
    same: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.target is torch._assert or isinstance(values.get(node), SCALARS):
            continue
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else node
        shape = getattr(values.get(source), "shape", None)
        if name in _MOVING and source is not node and shape == values[node].shape:
            same[node] = same.get(source, source)
        else:
            nodes.append(node)
    return nodes, same


def _assert_one(run: Run, skeleton: Skeleton) -> None:
    """Have a graph assert that the first axis of its inputs has one entry."""
    graph = run.graph
    inputs = [n for n in graph.nodes if n.op == "placeholder" and isinstance(run.values[n], Tensor)]
    with graph.inserting_before(next(n for n in graph.nodes if n.op != "placeholder")):
        for node in inputs:
            if not run.values[node].dim() or run.values[node].shape[0] != 1:
                continue
            size = graph.call_method("size", (node, 0))
            held = graph.call_function(operator.eq, (size, 1))
            text = f"recorded for inputs where {node.name}.size(0) == 1"
            for made, value in ((size, 1), (held, True), (graph.call_function(torch._assert, (held, text)), None)):
                made.meta.update(scope="", source="")
                run.values[made] = value
