"""A model's graph in segments: one contraction (convolution, linear layer, matrix product) and all that runs until the next.

A segment is what every engine can time: eager PyTorch runs it node by node, ONNX Runtime fuses its activation and its norm into
the contraction. Of each segment there are five *features*, all of them sums of products of widths, so that they are known for
every choice of channels without running anything:

    1, work (multiply-accumulates), read (entries of the contraction's inputs), written (of its outputs),
    beside (entries that the other operations of the segment write)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.analysis.analysis import Analysis
from fxprune.analysis.terms import AxisTable, Terms
from fxprune.labels.call import MacTerm
from fxprune.tracing.graphs.modes import in_evaluation

__all__ = ["BESIDE", "FEATURES", "FIXED", "READ", "WORK", "WRITTEN", "Segments", "segments_of"]

FEATURES = ("fixed", "work", "read", "written", "beside")
FIXED, WORK, READ, WRITTEN, BESIDE = range(5)


@dataclass(frozen=True, eq=False)
class Segments(Terms):
    """The segments of one analysis, and their features as terms. `kept` below is a float array ``[groups]``.

    Attributes:
        anchors: name of the contraction of each segment; the first has none, and holds what runs before the first contraction.
        classes: shape class of each: operation, sizes that no choice changes, and the operations that follow.
        operations: the kind of contraction alone: ``"Conv2d 3x3"``, ``"depthwise Conv2d 5x5"``, ``"Linear"``.
        places: traced node name -> segment.
        owners, features: int arrays ``[terms]``: segment and feature of each term.
        sides: int array ``[segments, 2]``: the last two axes of each contraction (outputs and inputs of a layer), on whose
            alignment kernels depend; 0 where nothing of it can go.
    """

    anchors: list[str]
    classes: list[str]
    operations: list[str]
    places: dict[str, int]
    owners: np.ndarray
    features: np.ndarray
    sides: np.ndarray

    def __len__(self) -> int:
        return len(self.anchors)

    def widths(self, kept: np.ndarray) -> np.ndarray:
        """Entries of each axis: float array ``[axes]``."""
        return self._widths(np.append(kept, 1.0)[self.patterns].prod(1))

    def slope(self, weights: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """`Terms.slopes_of` for one weighted sum of terms, many times as fast: float array ``[groups]``."""
        factors = np.append(kept, 1.0)[self.patterns]
        widths, axes = self._widths(factors.prod(1))[self.factors], len(self.bases)
        by_axis = np.zeros(axes)
        for column in range(self.factors.shape[1]):
            others = weights * self.constants * np.delete(widths, column, axis=1).prod(1)
            by_axis += np.bincount(self.factors[:, column], others, axes)
        by_pattern = np.bincount(self.pattern, self.times * by_axis[self.axis], len(self.patterns))
        found = np.zeros(len(kept) + 1)
        for column in range(self.patterns.shape[1]):
            others = by_pattern * np.delete(factors, column, axis=1).prod(1)
            found += np.bincount(self.patterns[:, column], others, len(found))
        return found[:-1]

    def padded(self, kept: np.ndarray, multiples: np.ndarray) -> np.ndarray:
        """`Terms.parts`, but that the widths of work count as the next multiple: kernels compute in blocks.

        Args:
            multiples: float array ``[segments]``.
        """
        widths, block = self.widths(kept)[self.factors], multiples[self.owners][:, None]
        work = (self.features == WORK)[:, None] & (self.factors > 0)
        return np.asarray(self.constants * np.where(work, np.ceil(widths / block) * block, widths).prod(1))

    def values(self, kept: np.ndarray, multiples: np.ndarray) -> np.ndarray:
        """Features: float array ``[segments, features]``; `multiples` as in `padded`."""
        place, size = self.owners * len(FEATURES) + self.features, len(self) * len(FEATURES)
        return np.bincount(place, self.padded(kept, multiples), size).reshape(len(self), len(FEATURES))


@dataclass(eq=False)
class _Found:
    """Terms as they are found."""

    analysis: Analysis
    axes: AxisTable
    found: list[tuple[int, int, float, list[int]]] = field(default_factory=list)

    def add(self, segment: int, feature: int, constant: float, labels: Iterable[np.ndarray]) -> None:
        """One product."""
        numbers = []
        for each in labels:
            if number := self.number(each):
                numbers.append(number)
            else:
                constant *= len(each)
        self.found.append((segment, feature, float(constant), numbers))

    def number(self, labels: np.ndarray) -> int:
        """Which axis this is; 0 if nothing of it can go."""
        solution = self.analysis.solution
        ids = solution.root[labels]
        return 0 if solution.fixed[ids].all() else self.axes.numbers([ids])[0]

    def entries(self, segment: int, feature: int, tensors: Iterable[Tensor]) -> None:
        """How many entries tensors of the recording have."""
        for tensor in tensors:
            constant, labels = 1, []
            for axis in self.analysis.traced.mode.axes(tensor):
                if axis.labels is None:
                    constant *= axis.size
                else:
                    labels.append(axis.labels)
            self.add(segment, feature, constant, labels)


def segments_of(analysis: Analysis) -> Segments:
    """Part the graph of an analysis, as evaluation runs it, at its contractions."""
    traced = analysis.traced
    run = in_evaluation(traced.graph)
    macs: dict[str, list[MacTerm]] = {}
    for term in traced.mode.macs:
        macs.setdefault(term.node, []).append(term)
    terms = _Found(analysis, AxisTable(analysis))
    anchors, places, sides = [""], {}, [[0, 0]]
    members: list[list[fx.Node]] = [[]]
    terms.add(0, FIXED, 1.0, ())
    for node in traced.graph.nodes:
        if node.name not in run or node.op in ("placeholder", "output", "get_attr"):
            continue
        outputs = nested.tensors(traced.values.get(node))
        if node.name in macs:
            anchors.append(node.name)
            members.append([])
            here = len(anchors) - 1
            terms.add(here, FIXED, 1.0, ())
            for term in macs[node.name]:
                terms.add(here, WORK, term.constant, term.axes)
            sides.append([0, 0, *(terms.number(labels) for labels in macs[node.name][0].axes)][-2:])
            terms.entries(here, READ, (t for n in node.all_input_nodes for t in nested.tensors(traced.values.get(n))))
            terms.entries(here, WRITTEN, outputs)
        else:
            terms.entries(len(anchors) - 1, BESIDE, outputs)
        members[-1].append(node)
        places[node.name] = len(anchors) - 1
    return Segments(
        anchors=anchors,
        classes=[_class_of(traced, nodes) for nodes in members],
        operations=["start", *(_operation(traced, nodes[0]) for nodes in members[1:])],
        places=places,
        owners=np.array([segment for segment, *_ in terms.found], np.int64),
        features=np.array([feature for _, feature, *_ in terms.found], np.int64),
        sides=np.array(sides, np.int64),
        **terms.axes.terms([(constant, numbers) for _, _, constant, numbers in terms.found]),
    )


def _class_of(traced: Any, nodes: list[fx.Node]) -> str:
    """Segments of one class differ in their widths alone."""
    if not nodes:
        return "nothing"
    first = nodes[0]
    sizes = [str(_fixed_sizes(traced, traced.values.get(node))) for node in (*first.all_input_nodes, first)]
    follow = [_plain(traced, node) for node in nodes[1:]]
    counted = [f"{follow.count(name)} {name}" for name in dict.fromkeys(follow)]
    return f"{_operation(traced, first)} {' '.join(sizes)} then {', '.join(counted) or 'nothing'}"


def _operation(traced: Any, node: fx.Node) -> str:
    if node.op != "call_module":
        return _plain(traced, node)
    module: nn.Module = traced.names.modules[str(node.target)]
    kernel, groups = getattr(module, "kernel_size", ()), getattr(module, "groups", 1)
    grouped = "" if groups == 1 else "depthwise " if groups == getattr(module, "in_channels", 0) else "grouped "
    strides = getattr(module, "stride", ())
    size = "x".join(map(str, kernel)) if isinstance(kernel, tuple) else ""
    stride = f" by {strides[0]}" if isinstance(strides, tuple) and {*strides} - {1} else ""
    return f"{grouped}{type(module).__name__} {size}{stride}".strip()


def _plain(traced: Any, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(traced.names.modules[str(node.target)]).__name__
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))


def _fixed_sizes(traced: Any, value: Any) -> list[list[int | None]]:
    """Sizes of the axes that no choice of channels changes; None for the others."""
    return [[a.size if a.labels is None else None for a in traced.mode.axes(t)] for t in nested.tensors(value)]
