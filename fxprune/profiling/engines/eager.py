"""PyTorch as it is, operation by operation."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx
from torch.fx.node import map_arg

from fxprune.inputs.examples import own_copy
from fxprune.profiling.engines.base import Engine, Inputs, Parts, Run, called
from fxprune.tracing.contexts.regions import entered
from fxprune.tracing.graphs.modes import in_evaluation

__all__ = ["Eager", "Stepper"]

_AHEAD = 20_000_000  # cycles by which a GPU waits, so that the processor's launches are ahead of it


@dataclass(frozen=True)
class Eager(Engine):
    """Modules as they are called. On CUDA, segments are timed by events, with the processor's launches ahead of the device."""

    name: ClassVar[str] = "eager"

    def prepared(self, module: fx.GraphModule, inputs: Inputs) -> Run:
        return called(module, inputs)

    def parts(self, module: fx.GraphModule, inputs: Inputs, places: Mapping[str, int], count: int) -> Parts:
        stepper = Stepper(module, places)

        def run(forwards: int) -> np.ndarray:
            with torch.no_grad():
                timed = self._by_events if self.device.type == "cuda" else self._by_clock
                return np.stack([timed(stepper, own_copy(inputs), count) for _ in range(forwards)])

        return run

    def _by_clock(self, stepper: Stepper, inputs: Inputs, count: int) -> np.ndarray:
        """Seconds of the operations of each segment; what happens between two of them is not counted."""
        found, clock = [0.0] * count, self.clock

        def step(segment: int, call: Callable[[], Any]) -> Any:
            start = clock()
            value = call()
            found[segment] += clock() - start
            return value

        stepper(inputs, step)
        return np.array(found)

    def _by_events(self, stepper: Stepper, inputs: Inputs, count: int) -> np.ndarray:
        """Seconds between events at the borders of segments."""
        marks: list[tuple[int, torch.cuda.Event]] = []

        def mark(segment: int) -> None:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            marks.append((segment, event))

        def step(segment: int, call: Callable[[], Any]) -> Any:
            if not marks or marks[-1][0] != segment:
                mark(segment)
            return call()

        with torch.cuda.device(self.device):
            torch.cuda._sleep(_AHEAD)
            stepper(inputs, step)
            mark(-1)
            torch.cuda.synchronize(self.device)
        found = np.zeros(count)
        for (segment, start), (_, end) in itertools.pairwise(marks):
            found[segment] += start.elapsed_time(end) / 1e3
        return found


@dataclass(eq=False)
class Stepper:
    """Runs a graph as its code does, values freed where they are used last, each operation through the hands of a caller."""

    module: fx.GraphModule
    places: Mapping[str, int]
    _steps: list[tuple[fx.Node, list[fx.Node]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        needed = in_evaluation(self.module.graph)
        last: dict[fx.Node, fx.Node] = {}
        nodes = [n for n in self.module.graph.nodes if n.name in needed or n.op in ("placeholder", "output")]
        for node in nodes:
            for source in (*node.all_input_nodes, node):
                last[source] = node
        freed: dict[fx.Node, list[fx.Node]] = {}
        for source, node in last.items():
            freed.setdefault(node, []).append(source)
        self._steps = [(node, freed.get(node, [])) for node in nodes]
        self._modules = dict(self.module.named_modules())

    def __call__(self, inputs: Inputs, step: Callable[[int, Callable[[], Any]], Any]) -> Any:
        args, named = inputs
        given = iter((*args, *named.values()))
        values: dict[fx.Node, Any] = {}
        for node, freed in self._steps:
            if node.op == "placeholder":
                values[node] = next(given, None)
                continue
            fetched, keywords = map_arg((node.args, node.kwargs), values.get)
            if node.op == "output":
                return fetched[0]
            values[node] = self._run(node, fetched, keywords, step)
            del fetched, keywords
            for source in freed:
                values.pop(source, None)
        return None

    def _run(self, node: fx.Node, args: Any, named: Any, step: Callable[[int, Callable[[], Any]], Any]) -> Any:
        target: Any = node.target
        if node.op == "get_attr":
            owner, _, name = str(target).rpartition(".")
            return getattr(self._modules[owner], name)
        if node.op == "call_module":
            target = self._modules[str(target)]
        elif node.op == "call_method":
            target, args = getattr(args[0], str(target)), args[1:]
        with entered(node, gradients=False) if "region" in node.meta else contextlib.nullcontext():
            return step(self.places.get(node.name, 0), lambda: target(*args, **named))
