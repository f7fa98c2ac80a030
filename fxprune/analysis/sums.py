"""Which operand of a sum is a branch beside a stream: that which comes from the other one, or by more layers from one value."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from fxprune import nested
from fxprune.labels.table import key_of
from fxprune.tracing.graphs.modes import in_evaluation
from fxprune.tracing.tracer import Traced

__all__ = ["Sums"]

_ADDS = ("aten::add", "aten::add_", "python::add", "python::iadd")
_SUBS = ("aten::sub", "aten::sub_", "aten::subtract", "python::sub", "python::isub")


class Sums:
    """Answers for one traced graph."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.nodes = list(traced.graph.nodes)

    def sides(self, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
        """What remains of a sum and what may go; None if it is no sum of two ways from one value."""
        key = key_of(node.op, node.target)
        if key not in (*_ADDS, *_SUBS) or len(node.args) != 2 or not all(isinstance(a, fx.Node) for a in node.args):
            return None
        operands: Any = node.args
        first, second = operands
        if first is second or not all(isinstance(self.traced.values.get(n), Tensor) for n in (node, first, second)):
            return None
        stream = self._stream(first, second)
        scaled = key in _SUBS or node.kwargs.get("alpha", 1) != 1
        if stream is None or (stream is second and scaled) or not self._alike(stream, node):
            return None
        return stream, second if stream is first else first

    def _alike(self, stream: fx.Node, node: fx.Node) -> bool:
        a, b = self.traced.values[stream], self.traced.values[node]
        return a.shape == b.shape and a.dtype == b.dtype

    def _stream(self, a: Any, b: Any) -> fx.Node | None:
        """That of two operands from which the other comes, or to which a shorter way leads from where both come from."""
        (mine, behind_a), (its, behind_b) = ((self._bit[n], self._behind[n]) for n in (a, b))
        if mine & behind_b:
            return a
        if its & behind_a:
            return b
        common = behind_a & behind_b
        if not common:
            return None
        ways = self._ways(common, max(a, b, key=self._order.__getitem__))
        if ways[a] == ways[b]:
            return None
        return a if ways[a] < ways[b] else b

    @cached_property
    def _order(self) -> dict[fx.Node, int]:
        return {node: i for i, node in enumerate(self.nodes)}

    @cached_property
    def _bit(self) -> dict[fx.Node, int]:
        return {node: 1 << i for node, i in self._order.items()}

    @cached_property
    def _behind(self) -> dict[fx.Node, int]:
        """Of each node the tensors that it comes from, and which come from the model's inputs: a bit each."""
        found: dict[fx.Node, int] = {}
        for node in self.nodes:
            found[node] = 0
            for source in self._sources(node):
                if source.op == "placeholder" or found[source]:
                    found[node] |= found[source] | self._bit[source]
        return found

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        return [n for n in node.all_input_nodes if nested.tensors(self.traced.values.get(n))]

    def _ways(self, common: int, last: fx.Node) -> dict[fx.Node, tuple[float, float]]:
        """The shortest way from one of the nodes `common` to each: layers, then multiply-accumulates."""
        far = (float("inf"), 0.0)
        ways: dict[fx.Node, tuple[float, float]] = {}
        for node in self.nodes[: self._order[last] + 1]:
            if self._bit[node] & common:
                ways[node] = (0.0, 0.0)
                continue
            layers, macs = min((ways[n] for n in self._sources(node)), default=far)
            mine = self.macs.get(node.name, 0)
            ways[node] = (layers + bool(mine), macs + mine)
        return ways

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of each node that has any, in evaluation."""
        run, found = in_evaluation(self.traced.graph), dict[str, int]()
        for term in self.traced.mode.macs:
            if term.node in run:
                found[term.node] = found.get(term.node, 0) + term.constant * math.prod(len(ids) for ids in term.axes)
        return found

    def between(self, stream: fx.Node, operand: fx.Node) -> list[fx.Node]:
        """The nodes that lead to an operand and not to what remains."""
        bits = (self._behind[operand] | self._bit[operand]) & ~(self._behind[stream] | self._bit[stream])
        return [n for n in self.nodes if self._bit[n] & bits]
