"""The memory of a model's values while it runs, moment by moment, as a function of how many channels each group keeps.

What counts are the bytes that forward allocates in evaluation, without gradients, and still needs: every value from the node
that computes it to the last that reads it or a view of it, as `torch.fx` frees them. Parameters and the inputs are not among
them, nor what an operator needs for itself while it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, fx
from torch.fx.node import map_arg

from fxprune import nested
from fxprune.analysis.terms import AxisTable, Terms
from fxprune.tracing.graphs.modes import in_evaluation, select_mode

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["Memory", "Values", "memory_of", "values_of"]


@dataclass(frozen=True, eq=False)
class Values:
    """What one run allocates, and when it is needed.

    Attributes:
        sizes: of each allocation whose size a cut may change, ``bytes * prod(entries kept of each array of classes)``.
        alive: bool array ``[moments, allocations]``.
        fixed: float array ``[moments]``: bytes that no cut changes.
        nodes: of each moment, the node that runs.
    """

    sizes: list[tuple[float, list[np.ndarray]]]
    alive: np.ndarray
    fixed: np.ndarray
    nodes: list[str]

    def peak(self, kept: np.ndarray) -> int:
        """Bytes at the moment that needs most.

        Args:
            kept: bool array ``[classes]``: what stays.
        """
        found = np.array([size * math.prod(int(kept[ids].sum()) for ids in arrays) for size, arrays in self.sizes])
        return round(float((self.alive @ found + self.fixed).max(initial=0.0)))


@dataclass(frozen=True, eq=False)
class Memory(Terms):
    """The memory at the moments that may be the fullest: costs of one name, ``"memory"``, in bytes, for the whole batch.

    Attributes:
        alive: float array ``[moments, terms]``.
        fixed: float array ``[moments]``.
    """

    alive: np.ndarray
    fixed: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        return ("memory",) * len(self.fixed)

    @property
    def convex(self) -> np.ndarray:
        """All are (`fxprune.analysis.costs.Costs`)."""
        return np.ones(len(self.fixed), bool)

    def values(self, kept: np.ndarray) -> np.ndarray:
        """``[moments]``."""
        return np.asarray(self.alive @ self.parts(kept) + self.fixed)

    def slopes(self, kept: np.ndarray) -> np.ndarray:
        """``[moments, groups]``: by how much each grows with what a group keeps."""
        count = len(self.constants)
        return np.asarray(self.alive @ self.slopes_of(np.arange(count), count, kept))


def memory_of(analysis: Analysis) -> Memory:
    """The memory of a model, whatever its free groups keep."""
    axes, values = AxisTable(analysis), analysis.values
    found = axes.terms([(size, axes.numbers(arrays)) for size, arrays in values.sizes])
    rows = _fullest(values)
    return Memory(alive=values.alive[rows].astype(np.float64), fixed=values.fixed[rows], **found)


def _fullest(values: Values) -> np.ndarray:
    """Numbers of the moments at which something is alive that is not at others, or more that is fixed."""
    order = np.lexsort((-values.fixed, -values.alive.sum(1)))
    rows: list[int] = []
    for row in order.tolist():
        within = (values.alive[rows] >= values.alive[row]).all(1) & (values.fixed[rows] >= values.fixed[row])
        if not within.any():
            rows.append(row)
    return np.array(sorted(rows), np.int64)


def values_of(analysis: Analysis) -> Values:
    """Allocations and moments of the recorded graph, in evaluation."""
    traced, solution = analysis.traced, analysis.solution
    run = in_evaluation(traced.graph)
    nodes = [node for node in traced.graph.nodes if node.name in run and node.name not in analysis.dropped]
    made, last = _lives(nodes, traced.values, _shared(analysis))
    sizes: list[tuple[float, list[np.ndarray]]] = []
    alive = np.zeros((len(nodes), len(made)), bool)
    fixed = np.zeros(len(nodes))
    for storage, (first, tensor) in made.items():
        entries = max(tensor.numel(), 1)
        size, arrays = tensor.untyped_storage().nbytes() / entries, []
        for axis in traced.mode.axes(tensor):
            ids = None if axis.labels is None else solution.root[axis.labels]
            if ids is None or solution.fixed[ids].all():
                size *= axis.size
            else:
                arrays.append(ids)
        moments = slice(first, last[storage] + 1)
        if arrays:
            alive[moments, len(sizes)] = True
            sizes.append((size, arrays))
        else:
            fixed[moments] += size
    return Values(sizes, alive[:, : len(sizes)], fixed, [node.name for node in nodes])


def _shared(analysis: Analysis) -> dict[int, int]:
    """Storage of each sum that is no sum any more, as a branch is gone -> that of what remains of it."""
    found: dict[int, int] = {}
    if not analysis.without_branches:
        return found
    values = {node.name: value for node, value in analysis.traced.values.items()}
    for branch in analysis.branches.all.values():
        if branch.id in analysis.without_branches and not analysis.branches.must_copy(branch):
            (stream, _), (add, _) = (next(_storages(values[name])) for name in (branch.stream, branch.add))
            found[add] = found.get(stream, stream)
    return found


def _lives(
    nodes: list[fx.Node], values: dict[fx.Node, Any], shared: dict[int, int]
) -> tuple[dict[int, tuple[int, Tensor]], dict[int, int]]:
    """Storage -> the number of the node that makes it and a tensor in it; storage -> the number of the last that needs it."""
    made: dict[int, tuple[int, Tensor]] = {}
    last: dict[int, int] = {}
    given: set[int] = set()
    held: dict[fx.Node, set[int]] = {}
    for number, node in enumerate(nodes):
        held[node] = set()
        if node.target is select_mode:  # evaluation goes on with the last
            map_arg(node.args[2], lambda source: held[node].update(held[source]))  # noqa: B023  # called at once
        else:
            for own, tensor in _storages(values.get(node)):
                storage = shared.get(own, own)
                held[node].add(storage)
                if node.op in ("placeholder", "get_attr"):
                    given.add(storage)
                elif storage not in given:
                    made.setdefault(storage, (number, tensor))
        for storage in held[node].union(*(held.get(source, ()) for source in node.all_input_nodes)):
            last[storage] = number
    return made, last


def _storages(value: Any) -> Iterator[tuple[int, Tensor]]:
    for tensor in nested.tensors(value):
        yield tensor.untyped_storage()._cdata, tensor
