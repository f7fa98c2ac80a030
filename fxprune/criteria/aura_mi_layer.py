"""Mutual information of aura entropies in neighbouring layers (reconstruction; after Musat & Andonie, arXiv 2312.04926)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.criteria.aura_entropy import AuraCriterion
from fxprune.criteria.base import Tensors
from fxprune.criteria.entropy import entropy, levels
from fxprune.criteria.observing import Key, Sums
from fxprune.errors import InputError
from fxprune.statistics.maps import Maps
from fxprune.statistics.spots import Spots

__all__ = ["AuraMILayer"]


class AuraMILayer(AuraCriterion):
    """Mean over the next layer's channels d of ``I(H_SA(c); H_SA(d))`` in bits: two numbers for each image.

    The spatial aura entropies of a channel's map and of the next layer's maps (each quantised between its own extremes) are
    counted over images, in equal bins between their extremes on the calibration images. The plug-in estimate has its bias
    ``(bins used - 1)(bins used - 1) / (2 N ln 2)`` subtracted, and is at least 0. The next layer is the nearest spot downstream
    whose group is produced by a layer that reads this one; a spot without one scores the entropy of its own bins, the most
    that it could share. Reconstruction throughout.

    Args:
        bins: of each entropy.
        partners: at most so many channels of the next layer, evenly spaced. Memory: channels x partners x bins^2 numbers.
    """

    needs_analysis = True

    def __init__(self, *args: Any, bins: int = 8, partners: int = 64, **options: Any) -> None:
        super().__init__(*args, **options)
        if bins < 2 or partners < 1:
            raise InputError(f"bins must be at least 2 and partners at least 1, not {bins} and {partners}")
        self.bins, self.partners = bins, partners
        self._sources: dict[tuple[str, str], list[tuple[str, str, str]]] = {}  # spot -> (name of sums, spot) that wait for it
        self._answers: dict[Key, tuple[Key, str]] = {}  # a spot's key -> its partner's key, and the name of their sums
        self._levels: dict[tuple[str, str], Tensor] = {}  # of the batch at hand

    def prepare(self, analysis: Analysis, tensors: Tensors) -> None:
        """Find each spot's partner."""
        finder = Spots(analysis)
        order = {n.name: i for i, n in enumerate(finder.occupancy.nodes)}
        spots = [(order[s.node], (g, i), s) for g, found in finder.of(self.hook).items() for i, s in enumerate(found)]
        makes = {m.name: g.id for g in analysis.free for m in g.members if m.role == "producer"}
        reads = {g.id: {makes.get(m.name) for m in g.members if m.role == "consumer"} - {g.id} for g in analysis.free}
        self._sources, self._answers, self._levels = {}, {}, {}
        for number, (at, key, spot) in enumerate(spots):
            later = [(o, k, s) for o, k, s in spots if o > at and s.group in reads[spot.group]]
            if later:
                _, partner, there = min(later, key=lambda found: found[0])
                self._sources.setdefault((there.group, there.node), []).append((f"joint{number}", spot.group, spot.node))
                self._answers[key] = (partner, f"joint{number}")

    def ranged(self, maps: Maps) -> Tensor:
        return self._entropies(maps).T

    def observe(self, maps: Maps) -> Sums:
        assert maps.low is not None and maps.high is not None
        found = levels(self._entropies(maps), maps.low, maps.high, self.bins)  # [images, channels]
        here = (maps.spot.group, maps.spot.node)
        self._levels[here] = found
        own = one_hot(found, self.bins).double()
        sums = {"own": own.sum(0)}
        partners = own[:, torch.linspace(0, found.shape[1] - 1, min(self.partners, found.shape[1])).round().long()]
        for name, group, node in self._sources.get(here, []):
            source = one_hot(self._levels[group, node], self.bins).double()
            sums[name] = torch.einsum("ica,idb->cdab", source, partners)
        return sums

    def measure(self, sums: Sums) -> Tensor:
        if "joint" not in sums:
            return entropy(sums["own"])
        joint = sums["joint"]  # [channels, partners, bins, bins]
        mine, theirs = joint.sum(3), joint.sum(2)
        information = entropy(mine) + entropy(theirs) - entropy(joint.flatten(2))
        used = ((mine > 0).sum(2) - 1) * ((theirs > 0).sum(2) - 1)
        bias = used / (2 * math.log(2) * joint[0, 0].sum())
        return (information - bias).clamp_min(0).mean(1)

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        self._check(group)
        scores = []
        for key in sorted(k for k in self._sums if k[0] == group.id):
            partner, name = self._answers.get(key, (key, ""))
            joint = self._sums[partner].get(name)
            scores.append(self.measure(self._sums[key] if joint is None else {"joint": joint}))
        return self.settle(scores)

    def _entropies(self, maps: Maps) -> Tensor:
        """``H_SA [images, channels]``."""
        flat = maps.values.flatten(2)
        low, high = (v[:, :, None, None, None] for v in flat.aminmax(dim=2))
        quantised = levels(maps.values, low, high, self.levels)
        size = max(1, (1 << 23) // (len(quantised) * self.levels**2))
        return torch.cat([entropy(self.patterns(part)) for part in quantised.split(size, dim=1)], 1)
