"""The spatial aura entropy of every channel of a network, wherever its maps can be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxprune.analysis.analysis import Analysis, analyze_model
from fxprune.criteria.aura_entropy import AuraEntropy
from fxprune.criteria.observing import Key, Sums
from fxprune.errors import NothingToPrune
from fxprune.inputs.examples import settle_inputs
from fxprune.options import AttentionPolicy
from fxprune.statistics import Maps, gather
from fxprune.statistics.spot import Spot
from fxprune.statistics.spots import Spots
from fxprune.tracing.tracer import Traced

__all__ = ["AuraMap", "aura_map"]


@dataclass(frozen=True, eq=False)
class AuraMap:
    """What `aura_map` found.

    Attributes:
        model: class name of the model.
        sites: where channels were seen, in the order of the graph: the last module with parameters that their values went
            through (along the first operand of a sum); the second of a name is called name#2.
        channels: of each site, the numbers of the channels that were seen there.
        entropies: of each site, ``[channels]`` in bits: the mean over images.
        examples: of each site, its channels' maps for the first image, ``[channels, height, width]``.
        levels: that maps were quantised to; no entropy is above ``2 log2(levels)``.
        images: that were looked at.
    """

    model: str
    sites: tuple[str, ...]
    channels: tuple[np.ndarray, ...]
    entropies: tuple[np.ndarray, ...]
    examples: tuple[np.ndarray, ...]
    levels: int
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Everything but the examples, for JSON; six digits."""
        entropies = {s: [float(f"{v:.6g}") for v in e] for s, e in zip(self.sites, self.entropies, strict=True)}
        return {"model": self.model, "levels": self.levels, "images": self.images, "entropies": entropies}


def aura_map(
    model: nn.Module,
    data: Iterable[Any],
    example_inputs: Any = None,
    *,
    batches: int | None = None,
    ignore: Iterable[str] = (),
    attention: AttentionPolicy = "head_dim",
    levels: int = 8,
    neighbours: int = 4,
    radius: int = 1,
) -> AuraMap:
    """Measure the spatial aura entropy of the channels that may be pruned, at each place where they can be seen.

    After Musat & Andonie, arXiv 2312.04926, who propose the entropy for pruning and for looking into networks; how it is
    counted is a choice made here, see `fxprune.criteria.aura_entropy.AuraEntropy`. Channels that several blocks share are
    seen in each of them.

    Args:
        model, example_inputs, ignore, attention, batches: as in `fxprune.prune`; `model` is untouched.
        data: any iterable of batches: inputs, or inputs and labels.
        levels, neighbours, radius: as of `AuraEntropy`.

    Raises:
        InputError: an argument is out of range, or the data do not fit the model.
        TraceError: the forward cannot be recorded as one graph.
        NothingToPrune: no channel may be pruned.
    """
    criterion = _Keeper(levels=levels, neighbours=neighbours, radius=radius)
    args, named = settle_inputs(model, example_inputs)
    analysis = analyze_model(model, args, named, attention=attention, ignore=tuple(ignore))
    if not analysis.free:
        raise NothingToPrune("the model has no channels that may be pruned: there are no maps to look at")
    images = gather(model, analysis, [criterion], data, batches=batches).store.images
    names, columns = _columns(criterion, analysis)
    numbers, bits, maps = zip(*columns, strict=True)
    return AuraMap(type(model).__name__, names, numbers, bits, maps, levels, images)


def _columns(criterion: _Keeper, analysis: Analysis) -> tuple[tuple[str, ...], list[list[np.ndarray]]]:
    """Names of the sites in the order of the graph; of each its channels, their entropies and their maps."""
    finder = Spots(analysis)
    sites: dict[tuple[str, int], list[tuple[Key, Spot]]] = {}  # groups that share an axis come together again
    for group, found in finder.of(criterion.hook).items():
        for number, spot in enumerate(found):
            sites.setdefault((spot.source, spot.dim), []).append(((group, number), spot))
    nodes = {n.name: (number, n) for number, n in enumerate(finder.occupancy.nodes)}
    count: Counter[str] = Counter()
    names, columns = [], []
    for where in sorted(sites, key=lambda where: (nodes[where[0]][0], where[1])):
        name = _layer_before(nodes[where[0]][1], analysis.traced)
        count[name] += 1
        names.append(name if count[name] == 1 else f"{name}#{count[name]}")
        channels = np.concatenate([spot.entries[:, 0] for _, spot in sites[where]])
        entropies = np.concatenate([criterion.entropies[key] for key, _ in sites[where]])
        examples = np.concatenate([criterion.examples[spot.group, spot.node] for _, spot in sites[where]])
        columns.append([part[np.argsort(channels, kind="stable")] for part in (channels, entropies, examples)])
    return tuple(names), columns


def _layer_before(node: fx.Node, traced: Traced) -> str:
    here = node
    while True:
        if here.op == "call_module" and any(True for _ in traced.skeleton.get_submodule(str(here.target)).parameters()):
            return str(here.target)
        if not here.all_input_nodes:
            return node.name
        here = here.all_input_nodes[0]


class _Keeper(AuraEntropy):
    """Keeps what the criterion adds up: one entropy a site, not one a group; and the first image's maps."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.entropies: dict[Key, np.ndarray] = {}
        self.examples: dict[tuple[str, str], np.ndarray] = {}

    def observe(self, maps: Maps) -> Sums:
        key = (maps.spot.group, maps.spot.node)
        if key not in self.examples:
            self.examples[key] = _array(maps.values[0, :, 0])
        return super().observe(maps)

    def receive(self, sums: Mapping[Key, Sums], analysis: Any) -> None:
        super().receive(sums, analysis)
        self.entropies = {key: _array(self.measure(values)) for key, values in sums.items()}


def _array(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().to("cpu", torch.float32, copy=True).numpy())
