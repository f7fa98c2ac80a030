"""One design measured: its slim model beside the dense one, in turns, and segment by segment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxprune.analysis.analysis import Analysis
from fxprune.inputs.examples import random_like
from fxprune.profiling.designs import gone_of
from fxprune.profiling.engines.base import Engine, Inputs, Run
from fxprune.profiling.segments import Segments
from fxprune.rewrite import Rewritten, rewrite, with_weights
from fxprune.state import place_of

__all__ = ["Bench", "Sample", "middle", "seconds_needed", "threads", "timed_in_turns"]

_SECONDS = 0.4  # for one design's forwards, about
_FEWEST, _MOST = 5, 25
_DENSE_SECONDS, _DENSE_MOST = 1.0, 200  # for the dense model alone


@dataclass(frozen=True)
class Sample:
    """What was measured of one design.

    Attributes:
        number: of the design; -1 for a plan that is none.
        kept: channels kept of each free group.
        whole, dense: seconds of one forward of the slim model, and of the dense one in turns with it.
        parts: seconds of each segment of the slim model, if the engine can tell.
    """

    number: int
    kept: list[int]
    whole: float
    dense: float
    parts: list[float] | None

    def to_dict(self) -> dict[str, Any]:
        parts = None if self.parts is None else [float(f"{p:.4g}") for p in self.parts]
        return {"number": self.number, "kept": self.kept, "whole": self.whole, "dense": self.dense, "parts": parts}


def middle(seconds: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the first axis: as deaf to outliers as a median, and finer than the clock."""
    ordered, count = np.sort(seconds, axis=0), len(seconds)
    return np.asarray(ordered[count // 4 : count - count // 4].mean(0))


@dataclass(eq=False)
class Bench:
    """Measures slim models of one model on one engine.

    Attributes:
        analysis: of the model.
        model: it stays as it is.
    """

    analysis: Analysis
    model: nn.Module
    segments: Segments
    engine: Engine
    seed: int = 0

    def __post_init__(self) -> None:
        dtype = place_of(self.model)[1]
        self.inputs: Inputs = random_like(self.analysis.traced.example, self.engine.device, dtype, self.seed)
        self._dense: Run | None = None

    def slim(self, gone: Mapping[str, np.ndarray]) -> tuple[Rewritten, fx.GraphModule]:
        """A slim model on the engine's device, in evaluation."""
        rewritten = rewrite(self.analysis, gone)
        return rewritten, with_weights(rewritten, self.model).eval().to(self.engine.device)

    @property
    def dense(self) -> Run:
        """A forward of the model as it is recorded."""
        if self._dense is None:
            self._dense = self.engine.prepared(self.slim({})[1], self.inputs)
        return self._dense

    def beside_dense(self, module: fx.GraphModule) -> tuple[float, float]:
        """Seconds of one forward of a slim model, and of the dense one in turns with it."""
        with threads(self.engine):
            slim, dense = timed_in_turns(self.engine, [self.engine.prepared(module, self.inputs), self.dense])
        return slim, dense

    def dense_now(self) -> float:
        """Seconds of one forward of the dense model, over about a second: machines change their speed within less."""
        with threads(self.engine):
            once = [self.engine.seconds(self.dense) for _ in range(2)][1]  # the first warms up
            found = [self.engine.seconds(self.dense) for _ in range(_times(once))]
        return float(middle(np.array(found)))

    def sample(self, number: int, kept: np.ndarray) -> Sample:
        """Measure what keeps so many channels of each group."""
        with threads(self.engine):
            rewritten, module = self.slim(gone_of(self.analysis, kept))
            free = self.analysis.free
            kept = np.array([group.size - len(rewritten.cut.gone.get(group.id, ())) for group in free], np.int64)
            slim, dense = self.beside_dense(module)
            parts = self.engine.parts(module, self.inputs, _placed(rewritten, module, self.segments), len(self.segments))
            found = None if parts is None else middle(parts(_rounds(slim))).tolist()
        return Sample(number, kept.tolist(), slim, dense, found)


def timed_in_turns(engine: Engine, runs: list[Run]) -> list[float]:
    """Seconds of each, in turns so that a busy machine slows all alike; every second round goes backwards."""
    once = [engine.seconds(run) for run in runs for _ in range(2)][1::2]
    found = []
    for turn in range(_rounds(sum(once) / len(once))):
        places = range(len(runs))[:: -1 if turn % 2 else 1]
        times = {place: engine.seconds(runs[place]) for place in places}
        found.append([times[place] for place in range(len(runs))])
    return middle(np.array(found)).tolist()


def _rounds(seconds: float) -> int:
    return int(min(_MOST, max(_FEWEST, _SECONDS / max(seconds, 1e-9) / 2)))


def _times(seconds: float) -> int:
    return int(min(_DENSE_MOST, max(_FEWEST, _DENSE_SECONDS / max(seconds, 1e-9))))


@contextmanager
def threads(engine: Engine) -> Iterator[None]:
    """As many threads as the engine is asked to use, and no more afterwards than before."""
    before = torch.get_num_threads()
    torch.set_num_threads(engine.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _placed(rewritten: Rewritten, module: fx.GraphModule, segments: Segments) -> dict[str, int]:
    """Node of the slim graph -> its segment; nodes that the rewrite made go with those before them."""
    found, here, origin = {}, 0, rewritten.context.origin
    for node in module.graph.nodes:
        old = origin.get(node)
        here = segments.places.get(node.name if old is None else old.name, here)
        found[node.name] = here
    return found


def seconds_needed(bench: Bench, samples: int) -> float:
    """About how long so many designs take: the dense model is run once to know."""
    with threads(bench.engine):
        once = min(bench.engine.seconds(bench.dense) for _ in range(2))
    forwards = 3.0 * (_rounds(once) + 2)  # slim, dense and segment by segment
    return samples * (bench.engine.setup + forwards * once * 0.85)
