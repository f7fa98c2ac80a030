"""Where the channels of a group are: on which axis of which node's value, at which entries."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor, fx

from fxprune.analysis.analysis import Analysis
from fxprune.labels.store import Axis
from fxprune.tracing.graphs.modes import in_evaluation

__all__ = ["Occupancy"]


class Occupancy:
    """Finds the entries of each free group on the axes of the nodes that evaluation runs.

    Attributes:
        nodes: the nodes that evaluation needs and whose values depend on the model's inputs, in order.
        at: node -> {group id: (axis, entries ``[channels, multiplicity]``)}, for groups that occupy one axis of
            its tensor value, all their channels equally often.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        solution, groups = analysis.solution, analysis.free
        self._names = [g.id for g in groups]
        self._sizes = [g.size for g in groups]
        self._group = np.full(solution.classes, -1)
        self._channel = np.zeros(solution.classes, np.int64)
        for number, group in enumerate(groups):
            self._group[group.labels] = number
            self._channel[group.labels] = np.arange(group.size)
        self._factors = solution.factors
        run = in_evaluation(analysis.traced.graph)
        self.nodes: list[fx.Node] = []
        self.at: dict[fx.Node, Mapping[str, tuple[int, np.ndarray]]] = {}
        depends: set[fx.Node] = set()
        for node in analysis.traced.graph.nodes:
            if node.name not in run or node.op == "output":
                continue
            if node.op == "placeholder" or not depends.isdisjoint(node.all_input_nodes):
                depends.add(node)
                self.nodes.append(node)
                self.at[node] = self._of(node)

    def _of(self, node: fx.Node) -> dict[str, tuple[int, np.ndarray]]:
        if not isinstance(self.analysis.traced.values.get(node), Tensor):
            return {}
        found: dict[str, tuple[int, np.ndarray]] = {}
        several = set()
        for dim, axis in enumerate(self.analysis.traced.axes[node]):
            for name, entries in self._on(axis).items():
                if name in found:
                    several.add(name)
                found[name] = (dim, entries)
        return {name: where for name, where in found.items() if name not in several}

    def _on(self, axis: Axis) -> dict[str, np.ndarray]:
        if axis.labels is None:
            return {}
        classes, entry = self.analysis.solution.root[axis.labels], np.arange(axis.size)
        while (composite := self._factors[classes, 0] >= 0).any():  # such an entry belongs to two channels
            parts = self._factors[classes[composite]]
            entry = np.concatenate([entry[~composite], entry[composite], entry[composite]])
            classes = np.concatenate([classes[~composite], parts[:, 0], parts[:, 1]])
        owner = self._group[classes]
        found = {}
        for number in np.unique(owner[owner >= 0]).tolist():
            mine = owner == number
            channel, entries = self._channel[classes[mine]], entry[mine]
            counts = np.bincount(channel, minlength=self._sizes[number])
            if counts.min() == counts.max():
                order = np.lexsort((entries, channel))
                found[self._names[number]] = entries[order].reshape(self._sizes[number], -1)
        return found
