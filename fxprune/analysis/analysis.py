"""Which channels of a model go together, which may go at all, and what they cost."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from fxprune import nested
from fxprune.analysis.groups import Group, Member, Role, Status
from fxprune.errors import InputError, nearest
from fxprune.labels.solver import AttentionPolicy, Solution, solve
from fxprune.labels.store import Axis
from fxprune.tracing.modes import in_evaluation
from fxprune.tracing.tracer import Traced, trace_graph

if TYPE_CHECKING:
    import networkx

__all__ = ["Analysis", "analyze_model", "axes_in"]


@dataclass(eq=False)
class Analysis:
    """Coupled channels of one model under one set of options.

    Attributes:
        traced: the graph, with a label for every index of every axis.
        solution: classes of labels.
        groups: free groups first, in the order of the graph; then protected and frozen ones.
        attention: the policy that decided between heads and head_dim.
        ignore: the patterns of names that keep their channels.
    """

    traced: Traced
    solution: Solution
    groups: list[Group]
    attention: AttentionPolicy
    ignore: tuple[str, ...] = ()
    model_name: str = ""
    _free: dict[str, Group] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._free = {g.id: g for g in self.groups if g.status == "free"}

    @property
    def free(self) -> list[Group]:
        """The groups that may lose channels."""
        return list(self._free.values())

    # -- what remains when channels go -------------------------------------------------------------------------------

    def removed(self, gone: Mapping[str, np.ndarray]) -> np.ndarray:
        """Bool array ``[classes]``: what goes when the channels ``gone[group id]`` go."""
        mask = np.zeros(self.solution.classes, bool)
        for name, channels in gone.items():
            mask[self._free[name].labels[channels]] = True
        return self.solution.close(mask)

    def kept(self, axis: Axis, removed: np.ndarray) -> np.ndarray | None:
        """Indices that remain of an axis, or None where all do."""
        if axis.labels is None:
            return None
        gone = removed[self.solution.root[axis.labels]]
        return np.flatnonzero(~gone) if gone.any() else None

    def size(self, axis: Axis, removed: np.ndarray) -> int:
        """Entries that remain of an axis."""
        kept = self.kept(axis, removed)
        return axis.size if kept is None else len(kept)

    def kept_tensors(self, removed: np.ndarray) -> dict[str, dict[int, np.ndarray]]:
        """``{tensor name: {axis: kept indices}}`` for every axis that loses something."""
        result: dict[str, dict[int, np.ndarray]] = {}
        for name, classes in self._tensor_classes.items():
            for axis, ids in classes.items():
                gone = removed[ids]
                if gone.any():
                    result.setdefault(name, {})[axis] = np.flatnonzero(~gone)
        return result

    @cached_property
    def _tensor_classes(self) -> dict[str, dict[int, np.ndarray]]:
        movable = np.zeros(self.solution.classes, bool)
        for group in self.free:
            movable[group.labels] = True
        movable = self.solution.close(movable)
        result: dict[str, dict[int, np.ndarray]] = {}
        for name, tensor in self.traced.tensors.items():
            for number, axis in enumerate(self.traced.mode.axes(tensor)):
                if axis.labels is not None:
                    ids = self.solution.root[axis.labels]
                    if movable[ids].any():
                        result.setdefault(name, {})[number] = ids
        return result

    # -- cost, in closed form ----------------------------------------------------------------------------------------

    @cached_property
    def _terms(self) -> tuple[int, list[tuple[int, list[np.ndarray]]]]:
        whole = 0
        terms: list[tuple[int, list[np.ndarray]]] = []
        root, fixed = self.solution.root, self.solution.fixed
        run = in_evaluation(self.traced.graph)
        for term in self.traced.mode.macs:
            if term.node not in run:
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
                whole += constant
        return whole, terms

    def total_macs(self, removed: np.ndarray | None = None) -> int:
        """Multiply-accumulates of convolutions and matrix products in evaluation on the example inputs, batch included."""
        whole, terms = self._terms
        kept = np.ones(self.solution.classes, bool) if removed is None else ~removed
        for constant, axes in terms:
            for ids in axes:
                constant *= int(kept[ids].sum())
            whole += constant
        return whole

    def macs(self, removed: np.ndarray | None = None) -> int:
        """`total_macs` for one sample."""
        return round(self.total_macs(removed) / self.batch)

    def params(self, removed: np.ndarray | None = None) -> int:
        """Parameters that the graph uses."""
        count = 0
        for name in self.parameter_names:
            shape = list(self.traced.tensors[name].shape)
            if removed is not None:
                for axis, ids in self._tensor_classes.get(name, {}).items():
                    shape[axis] = int((~removed[ids]).sum())
            count += int(np.prod(shape))
        return count

    @cached_property
    def batch(self) -> int:
        """Samples in the example inputs: the first size of the first tensor."""
        args, named = self.traced.inputs
        for value in (*args, *named.values()):
            if isinstance(value, Tensor) and value.dim():
                return max(int(value.shape[0]), 1)
        return 1

    @cached_property
    def parameter_names(self) -> list[str]:
        """Parameters that the graph reads, in the order of the model."""
        used = used_names(self.traced)
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
                layer = member.name.rpartition(".")[0] or member.name
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

    def group(self, name: str) -> Group:
        """The free group of that id."""
        if name not in self._free:
            raise InputError(f"there is no group {name!r} that may be pruned{nearest(name, self._free)}")
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


def group_channels(traced: Traced, attention: AttentionPolicy, ignore: tuple[str, ...], model_name: str) -> Analysis:
    """Solve the labels of a traced model and sort its channels into groups."""
    solution = solve(traced.mode.store, attention)
    slots = _slots(traced)
    protected = _protected_slots(traced, slots, ignore)
    groups = _Grouping(traced, solution, slots, protected).groups()
    return Analysis(traced, solution, groups, attention, ignore, model_name)


@dataclass(frozen=True, slots=True)
class _Slot:
    name: str
    axis: int
    labels: np.ndarray
    role: Role


def _slots(traced: Traced) -> list[_Slot]:
    """Every labelled axis of the tensors that the graph reads, in their order."""
    used = used_names(traced)
    order: list[str] = sorted((n for n in traced.tensors if n in used), key=used.__getitem__)
    roles = traced.mode.roles
    slots = []
    for name in order:
        for number, axis in enumerate(traced.mode.axes(traced.tensors[name])):
            if axis.labels is not None:
                slots.append(_Slot(name, number, axis.labels, roles.get(int(axis.labels[0]), "affine")))
    return slots


def used_names(traced: Traced) -> dict[str, int]:
    """Parameters and buffers that the graph reads -> the order in which it does."""
    order: dict[str, int] = {}
    identity = {id(t): n for n, t in reversed(traced.tensors.items())}
    modules = dict(traced.skeleton.named_modules(remove_duplicate=False))
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            order.setdefault(str(node.target), len(order))
        elif node.op == "call_module":
            leaf = modules[str(node.target)]
            for tensor in (*leaf._parameters.values(), *leaf._buffers.values()):
                if tensor is not None:
                    order.setdefault(identity[id(tensor)], len(order))
    return order


def _protected_slots(traced: Traced, slots: list[_Slot], ignore: tuple[str, ...]) -> dict[int, str]:
    """Slots whose channels the user keeps -> the pattern that said so."""
    modules = [name for name, _ in traced.skeleton.named_modules()]
    found: dict[int, str] = {}
    for pattern in ignore:
        matched = [m for m in modules if m and fnmatch.fnmatchcase(m, pattern)]
        tensors = [n for n in traced.tensors if fnmatch.fnmatchcase(n, pattern)]
        if not matched and not tensors:
            known = [*modules, *traced.tensors]
            raise InputError(f"ignore={pattern!r} matches no module or parameter of the model{nearest(pattern, known)}")
        prefixes = tuple(m + "." for m in matched)
        for number, slot in enumerate(slots):
            if slot.name in tensors or (slot.role != "consumer" and slot.name.startswith(prefixes)):
                found.setdefault(number, pattern)
    return found


class _Grouping:
    """Sorts classes into groups: channels that occupy the same slots equally often belong to one group."""

    def __init__(self, traced: Traced, solution: Solution, slots: list[_Slot], protected: dict[int, str]) -> None:
        self.traced, self.solution, self.slots, self.protected = traced, solution, slots, protected
        slot = np.concatenate([np.full(len(s.labels), i) for i, s in enumerate(slots)] or [np.zeros(0, np.int64)])
        element = np.concatenate([np.arange(len(s.labels)) for s in slots] or [np.zeros(0, np.int64)])
        classes = np.concatenate([solution.root[s.labels] for s in slots] or [np.zeros(0, np.int64)])
        self.slot, self.element, self.classes = _factors(solution, slot, element, classes)

    def groups(self) -> list[Group]:
        is_producer = np.array([s.role == "producer" for s in self.slots] or [False])
        random = np.random.default_rng(0).integers(1, 2**62, size=len(self.slots) + 1, dtype=np.int64)
        fixed = self.solution.fixed
        frozen_entry = fixed[self.classes]
        # A frozen class is reported by the layers that produce it, not by every axis that it touches.
        keep = ~frozen_entry | is_producer[self.slot]
        slot, element, classes = self.slot[keep], self.element[keep], self.classes[keep]
        signature = np.zeros(self.solution.classes, np.int64)
        with np.errstate(over="ignore"):
            np.add.at(signature, classes, random[slot])
            signature += np.where(fixed, (self.solution.cause % 1_000_003 + 1) * 7919, self._uses())
        _, group_of = np.unique(signature, return_inverse=True)
        order = np.lexsort((element, classes, slot, group_of[classes]))
        slot, element, classes = slot[order], element[order], classes[order]
        owner = group_of[classes]
        cuts = np.flatnonzero(np.diff(owner)) + 1
        parts = [part for part in np.split(np.arange(len(owner)), cuts) if len(part)]
        found = [self._group(slot[part], element[part], classes[part]) for part in parts]
        found.sort(key=lambda item: (item[1].status != "free", item[0]))
        return _name([group for _, group in found])

    def _uses(self) -> np.ndarray:
        """A number for each class that tells where in the graph it occurs, and how often.

        Channels of one group take part in the same operations: half of a split that is rectified is another group than
        the half that is not, although one convolution makes both. The two factors of a composite differ too.
        """
        random = np.random.default_rng(1)
        found = np.zeros(self.solution.classes, np.int64)
        axes = [axis for value in self.traced.axes.values() for axis in axes_in(value)]
        parts = [(axis.labels, int(random.integers(1, 2**62))) for axis in axes if axis.labels is not None]
        if not parts:
            return found
        labels = self.solution.root[np.concatenate([p[0] for p in parts])]
        weights = np.repeat(np.array([p[1] for p in parts]), [len(p[0]) for p in parts])
        with np.errstate(over="ignore"):
            np.add.at(found, labels, weights)
            whole_uses = found.copy()
            for whole, left, right in self.solution.composites:
                shape = (len(left), len(right))
                uses = whole_uses[whole].reshape(shape)
                one, other = (int(n) for n in random.integers(1, 2**62, size=2))
                np.add.at(found, left, uses.sum(1) + one)
                np.add.at(found, right, uses.sum(0) * 3 + other)
        return found

    def _group(self, slot: np.ndarray, element: np.ndarray, classes: np.ndarray) -> tuple[tuple[int, int], Group]:
        """One group from its entries, sorted by slot, class and element."""
        members: list[Member] = []
        cuts = np.flatnonzero(np.diff(slot)) + 1
        bounds = [0, *cuts.tolist(), len(slot)]
        # Channels are numbered by their first entry in the first slot.
        first_classes, first_at = np.unique(classes[: bounds[1]], return_index=True)
        rank = np.argsort(element[: bounds[1]][first_at], kind="stable")
        labels = first_classes[rank]
        protected = None
        for low, high in itertools.pairwise(bounds):
            source = self.slots[int(slot[low])]
            if int(slot[low]) in self.protected:
                protected = self.protected[int(slot[low])]
            indices = element[low:high].reshape(len(labels), -1)[rank]
            members.append(Member(source.name, source.axis, indices, source.role))
        status, reason = self._status(labels, protected)
        producers = [m.indices.shape[1] for m in members if m.role == "producer"]
        group = Group(
            id="",
            size=len(labels),
            members=tuple(members),
            exact=not self.solution.statistics[labels].any(),
            status=status,
            reason=reason,
            multiplicity=min(producers or [members[0].indices.shape[1]]),
            labels=labels,
        )
        return (int(slot[0]), int(element.min())), group

    def _status(self, labels: np.ndarray, protected: str | None) -> tuple[Status, str]:
        if self.solution.fixed[labels[0]]:
            return "frozen", str(self.traced.mode.store.causes[int(self.solution.cause[labels[0]])])
        if protected is not None:
            return "protected", f"ignore={protected!r}"
        if len(labels) == 1:
            return "frozen", "a single channel cannot be removed"
        return "free", ""


def _factors(
    solution: Solution, slot: np.ndarray, element: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Replace entries of composite classes by one entry for each factor."""
    table = solution.factors
    for _ in range(8):  # products nest a few levels at most
        composite = table[classes, 0] >= 0
        if not composite.any():
            break
        parts = table[classes[composite]]
        slot = np.concatenate([slot[~composite], slot[composite], slot[composite]])
        element = np.concatenate([element[~composite], element[composite], element[composite]])
        classes = np.concatenate([classes[~composite], parts[:, 0], parts[:, 1]])
    return slot, element, classes


def _name(groups: list[Group]) -> list[Group]:
    """Name each group after its first producer; add a counter where one tensor has several."""
    count: dict[str, int] = {}
    for group in groups:
        first = next((m for m in group.members if m.role == "producer"), group.members[0])
        base = first.name if first.axis == 0 else f"{first.name}[{first.axis}]"
        number = count[base] = count.get(base, -1) + 1
        group.id = f"{base}#{number}" if number else base
    return groups


def axes_in(value: Any) -> list[Axis]:
    """The axes in the labels of a node's value."""
    return nested.instances(Axis, value)
