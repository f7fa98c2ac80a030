"""Connects criteria that look at activations to the nodes that show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fxprune.criteria.observing import ActivationCriterion
from fxprune.criteria.weights import channel_weights
from fxprune.statistics.batches import Batch
from fxprune.statistics.maps import Maps, maps_of
from fxprune.statistics.site import Hook, Site
from fxprune.statistics.sites import Sites
from fxprune.statistics.store import Store
from fxprune.statistics.walk import Observer, Runner

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["Observers"]

Looking = list[tuple[int, ActivationCriterion]]  # with their numbers


@dataclass(eq=False)
class _Spot:
    """A site, its place among those of its group, its layer if it is the input of one, and who looks there."""

    site: Site
    place: int
    module: nn.Module | None
    looking: Looking

    @property
    def key(self) -> tuple[str, int]:
        return self.site.group, self.place


class Observers:
    """One observer a site, whatever the number of criteria that look there: maps are arranged once.

    Attributes:
        wants_ranges: some criterion needs the range of values.
    """

    def __init__(self, runner: Runner, analysis: Analysis, criteria: Looking, store: Store, classes: int) -> None:
        self.runner, self.store, self.classes = runner, store, classes
        self.wants_ranges = any(c.needs_range for _, c in criteria)
        hooks: dict[Hook, Looking] = {}
        for number, criterion in criteria:
            hooks.setdefault(criterion.hook, []).append((number, criterion))
        self._spots = self._find(analysis, hooks) if hooks else []

    def _find(self, analysis: Analysis, hooks: dict[Hook, Looking]) -> list[_Spot]:
        sites, spots = Sites(analysis), []
        modules = dict(self.runner.module.named_modules(remove_duplicate=False))
        target = {n.name: str(n.target) for n in self.runner.module.graph.nodes if n.op == "call_module"}
        for hook, looking in hooks.items():
            for found in sites.of(hook).values():
                for place, site in enumerate(found):
                    layer = modules.get(target.get(site.node, "")) if site.reader is not None else None
                    spots.append(_Spot(site, place, layer, looking))
        return spots

    def observe(self, batch: Batch, labels: Tensor | None) -> None:
        """Run a batch; each criterion adds its share at each site."""
        self._run(batch, labels, self._spots, self._add)

    def observe_ranges(self, batch: Batch) -> None:
        """Run a batch; the ranges of values become wide enough for it."""
        spots = [s for s in self._spots if any(c.needs_range for _, c in s.looking)]
        self._run(batch, None, spots, self._widen)

    def _run(self, batch: Batch, labels: Tensor | None, spots: Sequence[_Spot], act: Callable[[_Spot, Maps], None]) -> None:
        observers: dict[str, list[tuple[str, Observer]]] = {}
        for spot in spots:
            look = partial(self._look, spot, batch.images, labels, act)
            observers.setdefault(spot.site.node, []).append((spot.site.source, look))
        if observers:
            self.runner.observe(batch.inputs, observers)

    def _look(self, spot: _Spot, images: int, labels: Tensor | None, act: Callable[[_Spot, Maps], None], value: Tensor) -> None:
        with torch.autocast(value.device.type, enabled=False):
            values = maps_of(value, spot.site, images)
            reader = spot.site.reader
            weight = None if reader is None else channel_weights(self.runner.tensors[reader.name], reader)
            act(spot, Maps(values, spot.site, labels, self.classes, weight=weight, module=spot.module))

    def _add(self, spot: _Spot, maps: Maps) -> None:
        for number, criterion in spot.looking:
            if criterion.needs_range:
                maps.low, maps.high = (r.to(maps.values.device) for r in self.store.ranges[(number, *spot.key)])
            self.store.add(number, spot.key, criterion.observe(maps))

    def _widen(self, spot: _Spot, maps: Maps) -> None:
        for number, criterion in spot.looking:
            if criterion.needs_range:
                low, high = criterion.ranged(maps).aminmax(dim=1)
                self.store.widen(number, spot.key, low, high)
