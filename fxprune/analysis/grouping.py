"""Sorts classes of labels into groups: channels that occupy the same slots equally often, in the same operations.

A *slot* is a labelled axis of a tensor that the graph reads. Every entry of every slot belongs to a class (one coupled
channel) or to two (an entry of a composite goes with either of its factors); `Entries` lists them all. Classes with one
fingerprint form a group.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from fxprune.analysis.groups import Group, Member, Status
from fxprune.analysis.single import why_single
from fxprune.errors import InputError, nearest, shown
from fxprune.labels.solver import Solution
from fxprune.labels.store import Role, axes_in
from fxprune.tracing.tracer import Traced

__all__ = ["groups_of"]

_NESTING = 8  # products of products of products: real models nest two


@dataclass(frozen=True, slots=True)
class Slot:
    """A labelled axis of a tensor.

    Attributes:
        name: of the tensor, in the model's ``state_dict``.
        labels: one an entry.
        pattern: what the user wrote to keep the channels of this slot, if so.
    """

    name: str
    axis: int
    labels: np.ndarray
    role: Role
    pattern: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Entries of slots, a row each: ``(number of the slot, position along its axis, class)``."""

    slot: np.ndarray
    position: np.ndarray
    class_: np.ndarray

    @classmethod
    def of(cls, slots: list[Slot], root: np.ndarray) -> Entries:
        """All entries of all slots."""
        none = [np.zeros(0, np.int64)]
        return cls(
            np.concatenate([np.full(len(s.labels), i) for i, s in enumerate(slots)] or none),
            np.concatenate([np.arange(len(s.labels)) for s in slots] or none),
            np.concatenate([root[s.labels] for s in slots] or none),
        )

    def __len__(self) -> int:
        return len(self.slot)

    def at(self, rows: np.ndarray) -> Entries:
        """The rows of a mask, or in an order."""
        return Entries(self.slot[rows], self.position[rows], self.class_[rows])

    def factored(self, factors: np.ndarray) -> Entries:
        """Each entry of a composite replaced by two, one for each of its factors."""
        found = self
        for _ in range(_NESTING):
            composite = factors[found.class_, 0] >= 0
            if not composite.any():
                break
            rest, split = found.at(~composite), found.at(composite)
            pairs = factors[split.class_]
            found = Entries(
                np.concatenate([rest.slot, split.slot, split.slot]),
                np.concatenate([rest.position, split.position, split.position]),
                np.concatenate([rest.class_, pairs[:, 0], pairs[:, 1]]),
            )
        return found

    def split(self, owner: np.ndarray) -> Iterator[Entries]:
        """Runs of rows with one owner."""
        if not len(self):
            return
        bounds = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(self)]
        for low, high in itertools.pairwise(bounds):
            yield self.at(np.arange(low, high))


def groups_of(traced: Traced, solution: Solution, ignore: tuple[str, ...]) -> list[Group]:
    """Free groups first, in the order of the graph; then protected and frozen ones.

    Raises:
        InputError: a pattern of `ignore` matches nothing.
    """
    slots = _slots(traced, ignore)
    entries = Entries.of(slots, solution.root).factored(solution.factors)
    is_producer = np.array([s.role == "producer" for s in slots] or [False])
    # A frozen class is reported by the layers that produce it, not by every axis that it touches.
    entries = entries.at(~solution.fixed[entries.class_] | is_producer[entries.slot])
    _, group_of = np.unique(_fingerprints(entries, len(slots), traced, solution), return_inverse=True)
    entries = entries.at(np.lexsort((entries.position, entries.class_, entries.slot, group_of[entries.class_])))
    found = [_group(part, slots, traced, solution) for part in entries.split(group_of[entries.class_])]
    found.sort(key=lambda item: (item[1].status != "free", item[0]))
    return _named([group for _, group in found])


# -- slots -------------------------------------------------------------------------------------------------------------


def _slots(traced: Traced, ignore: tuple[str, ...]) -> list[Slot]:
    """Every labelled axis of the tensors that the graph reads, in their order."""
    kept = _kept_names(traced, ignore)
    slots = []
    for name in traced.used:
        if name not in traced.tensors:
            continue
        for number, axis in enumerate(traced.mode.axes(traced.tensors[name])):
            if axis.labels is not None:
                role = traced.mode.roles.get(int(axis.labels[0]), "affine")
                slots.append(Slot(name, number, axis.labels, role, kept.get((name, role == "consumer"))))
    return slots


def _kept_names(traced: Traced, ignore: tuple[str, ...]) -> dict[tuple[str, bool], str]:
    """``(tensor name, whether it consumes channels)`` that the user keeps -> the pattern that said so."""
    modules = [name for name, _ in traced.skeleton.named_modules()] if ignore else []
    found: dict[tuple[str, bool], str] = {}
    for pattern in ignore:
        matched = [m for m in modules if m and fnmatch.fnmatchcase(m, pattern)]
        tensors = [n for n in traced.tensors if fnmatch.fnmatchcase(n, pattern)]
        if not matched and not tensors:
            known = [*modules, *traced.tensors]
            raise InputError(f"ignore={shown(pattern)} matches no module or parameter of the model{nearest(pattern, known)}")
        prefixes = tuple(m + "." for m in matched)
        for name in traced.tensors:
            # A module keeps the channels that it makes; what it reads are another module's.
            if name in tensors or name.startswith(prefixes):
                found.setdefault((name, False), pattern)
            if name in tensors:
                found.setdefault((name, True), pattern)
    return found


# -- fingerprints ------------------------------------------------------------------------------------------------------


def _fingerprints(entries: Entries, slots: int, traced: Traced, solution: Solution) -> np.ndarray:
    """Int array ``[classes]``: equal for classes that occupy the same slots equally often and are used alike.

    A class's entries are a multiset of slots; comparing multisets one by one is quadratic, so each slot has a random
    number and a class the sum of its slots' numbers (modulo 2^64). Two different multisets collide with a probability of
    about 2^-62 (a multiple of it where multiplicities share factors), so among 100,000 patterns any two do with less than
    1 in 10^8. The seed is fixed: what is right once is right in every run. A collision would join two groups into one, which
    the shapes of their members nearly always forbid (an error), and never remove a channel without those coupled to it.
    """
    random = np.random.default_rng(0)
    numbers = random.integers(1, 2**62, size=slots + 1, dtype=np.int64)
    causes = random.integers(1, 2**62, size=len(traced.mode.store.causes), dtype=np.int64)
    found = np.zeros(solution.classes, np.int64)
    fixed = solution.fixed
    with np.errstate(over="ignore"):
        np.add.at(found, entries.class_, numbers[entries.slot])
        found[fixed] += causes[solution.cause[fixed]]
        found[~fixed] += _uses(traced, solution)[~fixed]
    return found


def _uses(traced: Traced, solution: Solution) -> np.ndarray:
    """A number for each class that tells where in the graph it occurs, and how often.

    Channels of one group take part in the same operations: half of a split that is rectified is another group than the half
    that is not, although one convolution makes both. The two factors of a composite differ too.
    """
    random = np.random.default_rng(1)
    found = np.zeros(solution.classes, np.int64)
    axes = [axis for value in traced.axes.values() for axis in axes_in(value)]
    parts = [(axis.labels, int(random.integers(1, 2**62))) for axis in axes if axis.labels is not None]
    if not parts:
        return found
    labels = solution.root[np.concatenate([p[0] for p in parts])]
    weights = np.repeat(np.array([p[1] for p in parts]), [len(p[0]) for p in parts])
    with np.errstate(over="ignore"):
        np.add.at(found, labels, weights)
        uses = found.copy()
        for composite, left, right in solution.composites:
            table = uses[composite].reshape(len(left), len(right))
            one, other = (int(n) for n in random.integers(1, 2**62, size=2))
            np.add.at(found, left, table.sum(1) + one)
            np.add.at(found, right, table.sum(0) * 3 + other)
    return found


# -- groups ------------------------------------------------------------------------------------------------------------


def _group(entries: Entries, slots: list[Slot], traced: Traced, solution: Solution) -> tuple[tuple[int, int], Group]:
    """A group and the place of its first entry, from entries sorted by slot, class and position."""
    parts = list(entries.split(entries.slot))
    # Channels are numbered by their first entry in the first slot.
    labels, first = np.unique(parts[0].class_, return_index=True)
    rank = np.argsort(parts[0].position[first], kind="stable")
    labels = labels[rank]
    members, pattern = [], None
    for part in parts:
        slot = slots[int(part.slot[0])]
        pattern = slot.pattern or pattern
        members.append(Member(slot.name, slot.axis, part.position.reshape(len(labels), -1)[rank], slot.role))
    status, reason = _status(labels, pattern, traced, solution)
    if status == "free" and len(labels) == 1:
        status, reason = "frozen", why_single(int(labels[0]), members, traced.mode.store, solution)
    if status == "free" and not any(isinstance(traced.tensors[m.name], nn.Parameter) for m in members):
        status, reason = "frozen", "no parameter has these entries, only buffers"
    producers = [m.indices.shape[1] for m in members if m.role == "producer"]
    group = Group(
        id="",
        size=len(labels),
        members=tuple(members),
        exact=not solution.statistics[labels].any(),
        status=status,
        reason=reason,
        multiplicity=min(producers or [members[0].indices.shape[1]]),
        labels=labels,
        kind=tuple(sorted(_used(member, traced) for member in members)),
    )
    return (int(entries.slot[0]), int(entries.position.min())), group


def _used(member: Member, traced: Traced) -> tuple[str, str, str, int]:
    """Role, class of the layer, tensor of it, and axis."""
    layer, _, tensor = member.name.rpartition(".")
    module = traced.names.modules.get(layer)
    return member.role, "" if module is None else type(module).__name__, tensor, member.axis


def _status(labels: np.ndarray, pattern: str | None, traced: Traced, solution: Solution) -> tuple[Status, str]:
    if solution.fixed[labels[0]]:
        return "frozen", str(traced.mode.store.causes[int(solution.cause[labels[0]])])
    if pattern is not None:
        return "protected", f"ignore={pattern!r}"
    return "free", ""


def _named(groups: list[Group]) -> list[Group]:
    """Name each group after its first producer; add a counter where one tensor has several."""
    count: dict[str, int] = {}
    for group in groups:
        first = next((m for m in group.members if m.role == "producer"), group.members[0])
        base = first.name if first.axis == 0 else f"{first.name}[{first.axis}]"
        number = count[base] = count.get(base, -1) + 1
        group.id = f"{base}#{number}" if number else base
    return groups
