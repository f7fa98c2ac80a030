"""Shows observers the activations at the nodes where they want to look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis
from fxprune.inputs.batches import Batch
from fxprune.statistics.contract import ActivationObserver
from fxprune.statistics.maps import Maps, maps_of
from fxprune.statistics.products import Product, products_in, products_of
from fxprune.statistics.spot import Hook, Spot
from fxprune.statistics.spots import Spots
from fxprune.statistics.store import Store
from fxprune.statistics.walk import Look, Runner
from fxprune.statistics.weights import channel_weights

__all__ = ["Lookout"]

Looking = list[tuple[int, ActivationObserver]]  # with their numbers


@dataclass(eq=False)
class _Watch:
    """A spot, its number among those of its group, its layer if it is the input of one, and who looks there."""

    spot: Spot
    number: int
    module: nn.Module | None
    looking: Looking

    @property
    def key(self) -> tuple[str, int]:
        return self.spot.group, self.number


@dataclass(frozen=True, eq=False)
class _Meeting:
    """A place where queries meet keys, its number after those of the group's spots, and who looks there."""

    product: Product
    number: int
    observer: tuple[int, ActivationObserver]


class Lookout:
    """One look at each spot, whatever the number of observers that look there: maps are arranged once.

    Attributes:
        wants_ranges: some observer needs the range of values.
    """

    def __init__(self, runner: Runner, analysis: Analysis, observers: Looking, store: Store, classes: int) -> None:
        self.runner, self.store, self.classes = runner, store, classes
        self.wants_ranges = any(o.needs_range for _, o in observers)
        hooks: dict[Hook, Looking] = {}
        for number, observer in observers:
            hooks.setdefault(observer.hook, []).append((number, observer))
        spots = Spots(analysis) if hooks else None
        self._watches = self._find(spots, hooks) if spots else []
        attending = [(number, observer) for number, observer in observers if observer.attends]
        self._meetings = self._meet(spots, attending) if spots and attending else []

    def _meet(self, spots: Spots, attending: Looking) -> list[_Meeting]:
        found = products_in(spots.occupancy)
        return [
            _Meeting(product, number, (index, observer))
            for index, observer in attending
            for group, products in found.items()
            for number, product in enumerate(products, len(spots.of(observer.hook)[group]))
        ]

    def _find(self, spots: Spots, hooks: dict[Hook, Looking]) -> list[_Watch]:
        watches = []
        modules = dict(self.runner.module.named_modules(remove_duplicate=False))
        target = {n.name: str(n.target) for n in self.runner.module.graph.nodes if n.op == "call_module"}
        for hook, looking in hooks.items():
            for found in spots.of(hook).values():
                for number, spot in enumerate(found):
                    layer = modules.get(target.get(spot.node, "")) if spot.reader is not None else None
                    watches.append(_Watch(spot, number, layer, looking))
        return watches

    def observe(self, batch: Batch, labels: Tensor | None) -> None:
        """Run a batch; each observer adds its share at each spot."""
        self._run(batch, labels, self._watches, self._add, self._meetings)

    def observe_ranges(self, batch: Batch) -> None:
        """Run a batch; the ranges of values become wide enough for it."""
        watches = [w for w in self._watches if any(o.needs_range for _, o in w.looking)]
        self._run(batch, None, watches, self._widen)

    def _run(
        self,
        batch: Batch,
        labels: Tensor | None,
        watches: Sequence[_Watch],
        act: Callable[[_Watch, Maps], None],
        meetings: Sequence[_Meeting] = (),
    ) -> None:
        looks: dict[str, list[tuple[tuple[str, ...], Look]]] = {}
        for watch in watches:
            look = partial(self._look, watch, batch.images, labels, act)
            looks.setdefault(watch.spot.node, []).append(((watch.spot.source,), look))
        for meeting in meetings:
            place = meeting.product
            looks.setdefault(place.node, []).append((place.sources, partial(self._attend, meeting)))
        if looks:
            self.runner.observe(batch.inputs, looks)

    def _look(
        self, watch: _Watch, images: int, labels: Tensor | None, act: Callable[[_Watch, Maps], None], value: Tensor
    ) -> None:
        with torch.autocast(value.device.type, enabled=False):
            values = maps_of(value, watch.spot, images)
            reader = watch.spot.reader
            weight = None if reader is None else channel_weights(self.runner.tensors[reader.name], reader)
            act(watch, Maps(values, watch.spot, labels, self.classes, weight=weight, module=watch.module))

    def _attend(self, meeting: _Meeting, *values: Tensor) -> None:
        number, observer = meeting.observer
        with torch.autocast(values[0].device.type, enabled=False):
            products = products_of(meeting.product, *values)
            if products is not None:
                self.store.add(number, (meeting.product.group, meeting.number), observer.attend(products))

    def _add(self, watch: _Watch, maps: Maps) -> None:
        for number, observer in watch.looking:
            if observer.needs_range:
                maps.low, maps.high = (r.to(maps.values.device) for r in self.store.ranges[(number, *watch.key)])
            self.store.add(number, watch.key, observer.observe(maps))

    def _widen(self, watch: _Watch, maps: Maps) -> None:
        for number, observer in watch.looking:
            if observer.needs_range:
                low, high = observer.ranged(maps).aminmax(dim=1)
                self.store.widen(number, watch.key, low, high)
