"""The pass over the data: every batch runs once, every criterion adds what it wants to remember of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Member
from fxprune.errors import InputError, PruneError, said
from fxprune.inputs.batches import Batch, class_labels, inputs_of, read_batch
from fxprune.progress import length, track
from fxprune.statistics.contract import ActivationObserver, GradientObserver, Key, Observer, Sums
from fxprune.statistics.gradients import Gradients, Loss
from fxprune.statistics.lookout import Lookout
from fxprune.statistics.store import Store
from fxprune.statistics.walk import Runner

__all__ = ["Settings", "Statistics", "each_batch", "processes"]

_FIRST = 64  # images that fix ranges where data can be read once only


@dataclass(frozen=True, eq=False)
class Settings:
    """How numbers are taken of a batch; see `gather`."""

    loss: Loss | None = None
    calibration: int | None = None
    classes: int | None = None
    autocast: torch.dtype | None = None


class Statistics:
    """Running sums of some criteria, or other observers, over data.

    A state dict holds all of it: save it (safetensors) to resume later, or `merge` those of several processes. States
    to be merged must share the ranges of one calibration: load the state of an `update` on a first share of the data.

    Args:
        model, analysis, criteria: as in `gather`.
        settings: ``loss``, ``calibration``, ``classes`` and ``autocast``, as in `gather`.

    Raises:
        InputError: a criterion reads no statistics.
    """

    def __init__(self, model: nn.Module, analysis: Analysis, criteria: Sequence[Observer], **settings: Any) -> None:
        for criterion in criteria:
            if not isinstance(criterion, Observer):
                name = getattr(criterion, "__name__", type(criterion).__name__)
                raise InputError(f"criterion {name} reads no statistics: score with it directly")
        self.analysis, self.criteria, self.settings = analysis, list(criteria), Settings(**settings)
        self.runner = Runner(model, analysis)
        self.classes = _classes(analysis) if self.settings.classes is None else self.settings.classes
        self.store = Store()
        for criterion in self.criteria:
            if criterion.needs_analysis:
                criterion.prepare(analysis, self.runner.tensors)
        looking = [(i, c) for i, c in enumerate(self.criteria) if isinstance(c, ActivationObserver)]
        self._lookout = Lookout(self.runner, analysis, looking, self.store, self.classes)
        self._differentiating = [(i, c) for i, c in enumerate(self.criteria) if isinstance(c, GradientObserver)]
        self._wanted = {i: self._speaking(c) for i, c in self._differentiating}
        names = {m.name for members in self._wanted.values() for m in members.values()}
        self._weights = {name: self.runner.tensors[name] for name in sorted(names)}
        self._inputs = inputs_of(analysis.traced.graph)

    def _speaking(self, observer: GradientObserver) -> dict[Key, Member]:
        """The weights whose gradients an observer wants; a buffer has none."""
        members = (((g.id, number), m) for g in self.analysis.free for number, m in enumerate(observer.speaks(g)))
        return {key: m for key, m in members if m.name in self.runner.tensors}

    def update(self, data: Iterable[Any], *, batches: int | None = None, progress: bool = False) -> None:
        """Add batches of data."""
        total = length(data, batches)
        source: Iterator[Any] = islice(each_batch(data), batches)
        twice = False
        if self._lookout.wants_ranges and not self.store.ranges:
            twice = self.settings.calibration is None and not isinstance(data, Iterator)
            shown = track(source, "finding ranges", total, shown=progress or None) if twice else source
            seen = self._calibrate(shown, keep=not twice)
            source = islice(each_batch(data), batches) if twice else chain(seen, source)
        before = self.store.images
        for batch in track(source, "observing", total, shown=progress or None):
            self.add(batch)
        if self.store.images == before:
            if twice and self.store.ranges:
                raise InputError("data gives its batches once only: pass iter(data), whose first images then fix the ranges")
            raise InputError("data holds no batches: a generator that was used up, or an empty loader?")

    def add(self, batch: Any) -> None:
        """Add one batch."""
        read = read_batch(batch, self._inputs, self.runner.device)
        with self._casting():
            self._lookout.observe(read, self._labels(read))
        for i, criterion in self._differentiating:
            with self._casting():
                found = criterion.observe(Gradients(self.runner, self._weights, read, self.settings.loss))
            counts = {"batches": torch.ones((), dtype=torch.float64), "images": torch.tensor(float(read.images)).double()}
            folded: dict[tuple[str, int], Tensor] = {}
            for key, member in self._wanted[i].items():
                place = member.name, member.axis
                if place not in folded:
                    folded[place] = criterion.fold(found[member.name], member.axis)
                indices = torch.from_numpy(member.indices).to(folded[place].device)
                self.store.add(i, key, {"channels": criterion.of_channels(folded[place][indices].sum(1)), **counts})
        self.store.images += read.images

    def finish(self) -> None:
        """Hand the sums to the criteria."""
        for i, criterion in enumerate(self.criteria):
            found: dict[Key, Sums] = self.store.of(i)
            criterion.receive(found, self.analysis)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything remembered so far, as named tensors on the CPU."""
        return self.store.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state of the same criteria on the same model."""
        self.store.load(state)

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add the state of another share of the data."""
        self.store.merge(state)

    def all_reduce(self) -> None:
        """Sum over all processes of the default process group; each has added data, with equal criteria."""
        self.store.all_reduce(self.runner.device)

    def _casting(self) -> contextlib.AbstractContextManager[Any]:
        autocast = self.settings.autocast
        return torch.autocast(self.runner.device.type, autocast, enabled=autocast is not None)

    def _labels(self, batch: Batch) -> Tensor | None:
        wanted = any(c.needs_labels for c in self.criteria if isinstance(c, ActivationObserver))
        return class_labels(batch, self.classes) if wanted else None

    def _calibrate(self, source: Iterator[Any], keep: bool) -> list[Any]:
        """Fix ranges: on the first images, whose batches are kept and given back, or on all there are, of which none is."""
        enough = _FIRST if self.settings.calibration is None else self.settings.calibration
        kept, images = [], 0
        for batch in source:
            read = read_batch(batch, self._inputs, self.runner.device)
            self._labels(read)  # what is missing is said before the whole data were read
            with self._casting():
                self._lookout.observe_ranges(read)
            if keep:
                kept.append(batch)
                images += read.images
                if images * processes() >= enough:
                    break
        if processes() > 1:
            self.store.share_ranges(self.runner.device)
        return kept


def _classes(analysis: Analysis) -> int:
    output = next(n for n in analysis.traced.graph.nodes if n.op == "output")
    value = analysis.traced.values.get(output)
    size = value.shape[-1] if isinstance(value, Tensor) and value.dim() == 2 else 100
    return max(2, min(int(size), 100))


def processes() -> int:
    """How many there are in the default process group; 1 without one."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def each_batch(data: Any) -> Iterator[Any]:
    """The batches of what a user gave.

    Raises:
        InputError: these are no batches, or the user's code that makes them fails.
    """
    count = 0
    try:
        for batch in data:
            yield batch
            count += 1
    except (PruneError, GeneratorExit):
        raise
    except Exception as error:
        raise InputError(f"data failed after {count} batches: {type(error).__name__}: {said(error)}") from error
