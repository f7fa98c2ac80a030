"""Where a criterion looks at the channels of a group: after activations, after norms, at residual sums, at consumers."""

from __future__ import annotations

from functools import cached_property

from torch import fx, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Member
from fxprune.statistics.kinds import Kind, is_sum, kind_of
from fxprune.statistics.occupancy import Occupancy
from fxprune.statistics.spot import Hook, Spot

__all__ = ["Spots"]


class Spots:
    """Finds the spots of an analysis; what it finds is kept."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.occupancy = Occupancy(analysis)

    def of(self, hook: Hook) -> dict[str, list[Spot]]:
        """``{group id: spots in the order of the graph}``; a group that is nowhere seen has an empty list.

        * ``"activation"``: the last norm or pointwise operation (else the layer itself) before the channels reach an
          operation of another kind. Gates count as pointwise. A residual sum starts anew: each block has its spot.
        * ``"norm"``: the first norm after each layer that produces the channels; the layer where none follows.
        * ``"sum"``: residual sums; the activation spots of a group without any.
        * ``"consumer"``: the inputs of the convolutions (neither grouped nor transposed) and linear layers that read them.
        """
        found: dict[str, list[Spot]] = {g.id: [] for g in self.analysis.free}
        if hook == "consumer":
            for node in self.occupancy.nodes:
                for group, member in self._readers(node):
                    found[group].append(self._spot(group, node, node.all_input_nodes[0], member))
            return found
        for group in found:
            nodes = {"activation": self._activations, "norm": self._norms, "sum": self._sums}[hook](group)
            found[group] = [self._spot(group, n, n) for n in nodes]
        return found

    # -- which nodes -------------------------------------------------------------------------------------------------

    @cached_property
    def _kinds(self) -> dict[fx.Node, Kind]:
        layers = {term.node for term in self.analysis.traced.mode.macs}
        return {n: kind_of(n, self.analysis.traced, layers) for n in self.occupancy.nodes}

    @cached_property
    def _members(self) -> dict[str, list[fx.Node]]:
        """Group -> the nodes whose value holds it."""
        found: dict[str, list[fx.Node]] = {g.id: [] for g in self.analysis.free}
        for node, groups in self.occupancy.at.items():
            for group in groups:
                found[group].append(node)
        return found

    def _next(self, node: fx.Node, group: str) -> list[fx.Node]:
        """Operations that read a node's value, seen through mere changes of layout."""
        found = []
        for user in node.users:
            if user not in self._kinds:
                continue
            if self._kinds[user] == "layout" and group in self.occupancy.at[user]:
                found += self._next(user, group)
            elif self.occupancy.analysis.traced.axes.get(user) is not None:  # not a size
                found.append(user)
        return found

    def _goes_on(self, node: fx.Node, group: str) -> bool:
        return self._kinds[node] in ("norm", "pointwise") and group in self.occupancy.at[node]

    def _activations(self, group: str) -> list[fx.Node]:
        ends = []
        for node in self._members[group]:
            if self._kinds[node] not in ("norm", "pointwise", "layer"):
                continue
            if not all(self._goes_on(n, group) for n in self._next(node, group)):
                ends.append(node)
        last = [n for n in ends if not self._reaches(n, group, set(ends))]
        return last or self._members[group][:1]

    def _reaches(self, node: fx.Node, group: str, ends: set[fx.Node]) -> bool:
        """Whether pointwise operations and norms lead from a node to another end, short of a residual sum."""
        pending, seen = self._next(node, group), set()
        while pending:
            here = pending.pop()
            if here in seen or not self._goes_on(here, group) or is_sum(here):
                continue
            if here in ends:
                return True
            seen.add(here)
            pending += self._next(here, group)
        return False

    def _norms(self, group: str) -> list[fx.Node]:
        found = []
        for node in self._members[group]:
            if self._kinds[node] == "layer":
                norms = [n for n in self._next(node, group) if self._kinds[n] == "norm" and group in self.occupancy.at[n]]
                found.append(norms[0] if norms else node)
        return found or self._activations(group)

    def _sums(self, group: str) -> list[fx.Node]:
        def operands(node: fx.Node) -> int:
            return sum(group in self.occupancy.at.get(n, {}) for n in node.all_input_nodes)

        return [n for n in self._members[group] if is_sum(n) and operands(n) > 1] or self._activations(group)

    def _readers(self, node: fx.Node) -> list[tuple[str, Member]]:
        """Groups that a convolution or linear layer reads along the input axis of its own weight."""
        if self._kinds[node] != "layer" or not node.all_input_nodes:
            return []
        if node.op == "call_module":
            module = self.analysis.traced.skeleton.get_submodule(str(node.target))
            if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)) or getattr(module, "groups", 1) > 1:
                return []
            weight = f"{node.target}.weight"
        else:
            weights = [str(n.target) for n in node.all_input_nodes[1:2] if n.op == "get_attr"]
            if not weights or getattr(node.target, "__name__", "") != "linear":
                return []
            weight = weights[0]
        return [
            (group, member)
            for group, (_, entries) in self.occupancy.at.get(node.all_input_nodes[0], {}).items()
            for member in self.analysis.group(group).members
            if (member.name, member.role) == (weight, "consumer") and member.indices.shape == entries.shape
        ]

    def _spot(self, group: str, node: fx.Node, source: fx.Node, reader: Member | None = None) -> Spot:
        dim, entries = self.occupancy.at[source][group]
        axes = self.analysis.traced.axes[source]
        copies = tuple(i for i, a in enumerate(axes) if i != dim and a.labels is not None)
        return Spot(group, node.name, source.name, dim, entries, copies, reader)
