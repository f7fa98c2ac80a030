"""Which channels of a model go together, which may go at all, and what they cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from fxprune import nested
from fxprune.analysis.branches import Branch, Branches
from fxprune.analysis.costs import Latency
from fxprune.analysis.cut import Cut
from fxprune.analysis.grouping import groups_of
from fxprune.analysis.groups import Group
from fxprune.analysis.memory import Memory, Values, memory_of, values_of
from fxprune.analysis.polynomials import Polynomials, polynomials_of
from fxprune.errors import InputError, nearest, shown
from fxprune.labels.solver import Solution, solve
from fxprune.options import AttentionPolicy
from fxprune.tracing.graphs.modes import in_evaluation
from fxprune.tracing.tracer import Traced, trace_graph
from fxprune.tracing.uncollected import uncollected

if TYPE_CHECKING:
    import networkx

__all__ = ["Analysis", "analyze_model", "group_channels"]


@dataclass(eq=False)
class Analysis:
    """Coupled channels of one model under one set of options.

    Attributes:
        traced: the graph, with a label for every index of every axis.
        solution: classes of labels.
        groups: free groups first, in the order of the graph; then protected and frozen ones.
        attention: the policy that decided between heads and head_dim.
        ignore: the patterns of names that keep their channels.
        without_branches: residual branches that are gone already (see `without`).
        latency: the time of one run, in nanoseconds, as a table of measurements predicts it (`fxprune.profiling`).
    """

    traced: Traced
    solution: Solution
    groups: list[Group]
    attention: AttentionPolicy
    ignore: tuple[str, ...] = ()
    model_name: str = ""
    without_branches: tuple[str, ...] = ()
    _whole: Analysis | None = field(default=None, repr=False)
    latency: Latency | None = None
    _free: dict[str, Group] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._free = {g.id: g for g in self.groups if g.status == "free"}

    @property
    def free(self) -> list[Group]:
        """The groups that may lose channels."""
        return list(self._free.values())

    # -- what remains when channels go -------------------------------------------------------------------------------

    def cut(self, gone: Mapping[str, np.ndarray | Sequence[int]] | None = None) -> Cut:
        """What remains when the channels ``gone[group id]`` go; of nothing gone, the model as it is.

        A branch that goes is a key, too, of one channel: ``{"layer1.0": [0]}``.
        """
        gone = gone or {}
        branches = [name for name, channels in gone.items() if name not in self.full._free and len(channels)]
        if branches:
            return self.without(branches).cut({name: gone[name] for name in gone if name in self.full._free})
        chosen = {name: np.asarray(channels, np.int64) for name, channels in gone.items() if name in self._free}
        mask = np.zeros(self.solution.classes, bool)
        for name, channels in chosen.items():
            mask[self._free[name].labels[channels]] = True
        return Cut(self, chosen, self.solution.close(mask))

    @property
    def full(self) -> Analysis:
        """The analysis of the model with all its branches."""
        return self if self._whole is None else self._whole

    def without(self, branches: Iterable[str]) -> Analysis:
        """What is left to analyze when residual branches go: the same labels and groups, but for those in the branches.

        Raises:
            InputError: there is no such branch, or it cannot go.
        """
        gone = tuple(dict.fromkeys((*self.without_branches, *branches)))
        for name in gone:
            self.full.branch(name)
        if gone == self.without_branches:
            return self
        reduced = replace(self.full, without_branches=gone, _whole=self.full)
        left = {name for name in self.traced.used if name not in reduced.lost_tensors}
        reduced._free = {g.id: g for g in self.full.free if any(m.name in left for m in g.members)}
        return reduced

    @cached_property
    def branches(self) -> Branches:
        """Residual branches, and what goes with each (`fxprune.analysis.branches`)."""
        return Branches(self.traced, self.ignore, {g.id for g in self.groups}) if self is self.full else self.full.branches

    def branch(self, name: str) -> Branch:
        """The branch of that id, which may go.

        Raises:
            InputError: there is none, or it stays.
        """
        known = self.branches.all
        found = known.get(name) if isinstance(name, str) else None
        if found is None:
            raise InputError(f"there is no branch or group {shown(name)} that may go{nearest(name, [*known, *self._free])}")
        if found.reason:
            raise InputError(f"the branch {name!r} cannot go: {found.reason}")
        return found

    @cached_property
    def dropped(self) -> frozenset[str]:
        """Names of the traced nodes that the branches which are gone took with them."""
        return self.branches.dropped(self.without_branches) if self.without_branches else frozenset()

    @cached_property
    def lost_tensors(self) -> set[str]:
        """Parameters and buffers that only these nodes read."""
        return self.branches.tensors_of(self.dropped) if self.dropped else set()

    def macs(self) -> int:
        """Multiply-accumulates for one sample, in evaluation."""
        return self.cut().macs

    def params(self) -> int:
        """Parameters that the graph uses."""
        return self.cut().params

    @cached_property
    def tensor_classes(self) -> dict[str, dict[int, np.ndarray]]:
        """``{tensor name: {axis: class of each entry}}`` for every axis that can lose something."""
        movable = np.zeros(self.solution.classes, bool)
        for group in self.free:
            movable[group.labels] = True
        movable = self.solution.close(movable)
        result: dict[str, dict[int, np.ndarray]] = {}
        for name, tensor in self.traced.tensors.items():
            if name in self.lost_tensors:
                continue
            for number, axis in enumerate(self.traced.mode.axes(tensor)):
                if axis.labels is not None:
                    ids = self.solution.root[axis.labels]
                    if movable[ids].any():
                        result.setdefault(name, {})[number] = ids
        return result

    @cached_property
    def mac_terms(self) -> tuple[int, list[tuple[int, list[np.ndarray]]]]:
        """What no cut changes, and terms ``constant * prod(entries kept of each array of classes)``."""
        constant_part = 0
        terms: list[tuple[int, list[np.ndarray]]] = []
        root, fixed = self.solution.root, self.solution.fixed
        run = in_evaluation(self.traced.graph)
        for term in self.traced.mode.macs:
            if term.node not in run or term.node in self.dropped:
                continue
            constant, axes = term.constant, []
            for labels in term.axes:
                ids = root[labels]
                if fixed[ids].all():
                    constant *= len(ids)
                else:
                    axes.append(ids)
            if axes:
                terms.append((constant, axes))
            else:
                constant_part += constant
        return constant_part, terms

    @cached_property
    def polynomials(self) -> Polynomials:
        """MACs and parameters as functions of how many channels each free group keeps."""
        return polynomials_of(self)

    @cached_property
    def values(self) -> Values:
        """What a run allocates, and when."""
        return values_of(self)

    @cached_property
    def memory(self) -> Memory:
        """The memory at each moment as a function of how many channels each free group keeps."""
        return memory_of(self)

    @cached_property
    def batch(self) -> int:
        """Samples in the example inputs: the first size of the first tensor."""
        sizes = [int(t.shape[0]) for t in nested.tensors(self.traced.inputs) if t.dim()]
        return max(sizes[0], 1) if sizes else 1

    @cached_property
    def parameter_names(self) -> list[str]:
        """Parameters that the graph reads, in the order of the model."""
        used = self.traced.used.keys() - self.lost_tensors
        return [n for n, t in self.traced.tensors.items() if isinstance(t, nn.Parameter) and n in used]

    @cached_property
    def whole(self) -> dict[str, str]:
        """Parameters whose own channels no group lists -> why they stay whole."""
        listed = {m.name for g in self.groups for m in g.members if m.role != "consumer"}
        store, reasons = self.traced.mode.store, {}
        for name in self.parameter_names:
            if name in listed:
                continue
            labels = [a.labels for a in self.traced.mode.axes(self.traced.tensors[name]) if a.labels is not None]
            causes = [int(self.solution.cause[c]) for ids in labels for c in self.solution.root[ids] if self.solution.fixed[c]]
            reasons[name] = str(store.causes[min(causes)]) if causes else "it has a single channel"
        return reasons

    # -- queries -----------------------------------------------------------------------------------------------------

    @cached_property
    def graph(self) -> networkx.DiGraph:
        """Groups and layers: an edge layer -> group where a layer produces it, group -> layer where one consumes it."""
        import networkx as nx

        graph = nx.DiGraph()
        for group in self.groups:
            graph.add_node(group.id, kind="group", size=group.size, status=group.status)
            for member in group.members:
                layer = member.name.rpartition(".")[0] or f"{member.name} (parameter)"  # a group may have its name
                graph.add_node(layer, kind="layer")
                if member.role == "consumer":
                    graph.add_edge(group.id, layer)
                else:
                    graph.add_edge(layer, group.id)
        return graph

    @cached_property
    def exclusive(self) -> dict[str, set[str]]:
        """Free group -> the free groups that should stay whole if it loses channels: of the groups of a grouped
        convolution and the channels within them, one kind goes."""
        owner = {int(label): g.id for g in self.free for label in g.labels}
        found: dict[str, set[str]] = {}
        for left, right in self.solution.exclusive:
            ones, others = ({owner[c] for c in side.tolist() if c in owner} for side in (left, right))
            for one, other in itertools.product(ones, others):
                if one != other:
                    found.setdefault(one, set()).add(other)
                    found.setdefault(other, set()).add(one)
        return found

    def nothing(self, frozen: Mapping[str, str] | None = None) -> str:
        """Why nothing goes, in a sentence; `frozen`: free groups that the rewrite could not shrink -> the reason."""
        why = [(g.id, (frozen or {}).get(g.id, g.reason)) for g in self.groups]
        reasons = list(dict.fromkeys(f"{name}: {reason}" for name, reason in why if reason))[:3]
        return f"no channel of {self.model_name} may be removed" + (f" ({'; '.join(reasons)})" if reasons else "")

    def group(self, name: str) -> Group:
        """The free group of that id."""
        if not isinstance(name, str) or name not in self._free:
            raise InputError(f"there is no group {shown(name)} that may be pruned{nearest(name, self._free)}")
        return self._free[name]


def analyze_model(
    model: nn.Module,
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    attention: AttentionPolicy = "head_dim",
    ignore: Iterable[str] = (),
) -> Analysis:
    """Trace and label `model` on the shapes of the inputs, and find its groups."""
    traced = trace_graph(model, inputs, kwargs)
    return group_channels(traced, attention, tuple(ignore), type(model).__name__)


@uncollected()
def group_channels(traced: Traced, attention: AttentionPolicy, ignore: tuple[str, ...], model_name: str) -> Analysis:
    """Solve the labels of a traced model and sort its channels into groups."""
    solution = solve(traced.mode.store, attention)
    return Analysis(traced, solution, groups_of(traced, solution, ignore), attention, ignore, model_name)
