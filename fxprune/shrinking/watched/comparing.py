"""One session of the dense and of the slim model: see `fxprune.shrinking.watched.lockstep`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune import nested
from fxprune.analysis.analysis import Analysis
from fxprune.analysis.cut import Cut
from fxprune.errors import said
from fxprune.labels.solver import Solution, solve
from fxprune.labels.store import axes_in
from fxprune.shrinking.watched.analysis import Watched, analysis_of, labels_on_path, twin
from fxprune.shrinking.watched.calls import Session, run
from fxprune.shrinking.watched.labels import Diverged, Watching
from fxprune.shrinking.watched.lockstep import Compared, Fault, Hearing, Masking, close, masked, picked, same_results
from fxprune.shrinking.watched.operators import Decisions
from fxprune.shrinking.watched.slimming import Chosen, slim_copy
from fxprune.state import named_tensors

__all__ = ["Outcome", "compare", "groups_of_fault", "in_enough_precision"]


@dataclass
class Outcome:
    """What a session showed.

    Attributes:
        compared: None where the dense model itself does not take these calls.
        labels: of the dense model on the slim one's path.
    """

    session: Session
    compared: Compared | None = None
    labels: Watching | None = None
    sizes: dict[int, list[int]] = field(default_factory=dict)

    @property
    def faults(self) -> list[Fault]:
        """Operators at which the two are not alike, the first one first."""
        return [] if self.compared is None else sorted(self.compared.faults, key=lambda fault: fault.number)


def in_enough_precision(watched: Watched, cut: Cut, chosen: Chosen, session: Session) -> Outcome:
    """`compare`; in float64 where all that differs may be rounding."""
    found = compare(watched, cut, chosen, session)
    if not found.faults or not all(f.rounding for f in found.faults) or watched.example.dtype is torch.float64:
        return found
    wide = replace(watched, example=replace(watched.example, dtype=torch.float64))
    inputs = tuple(((_widened(args), _widened(named)), mode) for (args, named), mode in session.inputs)
    again = compare(wide, cut, chosen, replace(session, inputs=inputs))
    return found if again.compared is None else again


def _widened(value: Any) -> Any:
    return nested.map(lambda v: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v, value)


def compare(watched: Watched, cut: Cut, chosen: Chosen, session: Session) -> Outcome:
    """Run a session on the slim model, and on the dense one beside it.

    Raises:
        Mismatch: a grouped layer would keep unequal numbers of channels of its groups.
    """
    source = twin(watched.model, watched.example, own=session.own)
    slim = slim_copy(source, cut, watched.layers, chosen)
    outcome, hearing = Outcome(session), Hearing(slim, Decisions(session.flipped))
    failed, results = "", []
    try:
        with hearing:
            results = run(slim, session)
    except Exception as error:  # whatever the model raises
        failed = f"the slim model fails there: {type(error).__name__}: {said(error)[:160]}"
        if not _takes(watched, session):
            return outcome
    dense = twin(watched.model, watched.example, own=session.own)
    labels, diverged = labels_on_path(dense, session, hearing.heard)
    outcome.labels, outcome.compared = labels, Compared()
    if failed or diverged is not None:
        number = len(hearing.heard) if failed else diverged.number  # type: ignore[union-attr]
        scope = hearing.trying[1] if failed else labels.scopes.now
        axes = axes_in([labels.inputs_at(number), labels.axes_before(number)])
        outcome.compared.faults.append(Fault(number, scope, failed or str(diverged), axes))
        del hearing.heard[number:]
    analysis = analysis_of(labels, dense, watched.example, cut.analysis)
    there, places = _cut_there(cut, analysis, labels)
    if outcome.compared.faults:  # that they fail later says nothing of what comes before
        before = _masked_run(watched, (cut, there), session, (hearing, labels), (slim, results)).faults if not places else []
        outcome.compared.faults += [fault for fault in before if fault.number < number]
        return outcome
    if places:
        what = f"with {session.name}, other channels belong together"
        outcome.compared.faults.append(Fault(0, places[0][0].rpartition(".")[0], what, places=places))
        return outcome
    outcome.compared = _masked_run(watched, (cut, there), session, (hearing, labels), (slim, results))
    return outcome


def _takes(watched: Watched, session: Session) -> bool:
    try:
        run(twin(watched.model, watched.example, own=session.own), session)
    except Exception:
        return False
    return True


def _masked_run(
    watched: Watched,
    cuts: tuple[Cut, Cut],
    session: Session,
    heard: tuple[Hearing, Watching],
    slims: tuple[nn.Module, list[Any]],
) -> Compared:
    (whole, cut), (hearing, labels), (slim, results) = cuts, heard, slims
    dense = twin(watched.model, watched.example, own=session.own)
    for name, tensor in named_tensors(dense, once=True).items():
        masked(tensor.detach(), whole.tensors.get(name, {}))
    masking = Masking(hearing.heard, labels, cut, watched.example.dtype)
    try:
        with masking:
            own = run(dense, session)
    except Diverged as error:
        seen = labels.seen[min(error.number, len(labels.seen) - 1)]
        axes = axes_in([seen.inputs, seen.axes])
        masking.found.faults.append(Fault(error.number, seen.scope, str(error), axes))
        return masking.found
    end = len(hearing.heard)
    if masking.number < end:
        masking.found.faults.append(Fault(masking.number, "", "the slim model runs more operators than the dense one"))
    elif not masking.found.faults:
        wrong = next((text for a, b in zip(own, results, strict=True) if (text := same_results(a, b))), "")
        wrong = wrong or _state_apart(dense, slim, whole, masking.tolerance)
        if wrong:
            masking.found.faults.append(Fault(end, "", wrong))
    return masking.found


def _state_apart(dense: nn.Module, slim: nn.Module, cut: Cut, tolerance: float) -> str:
    """The tensor of the model that the calls left in another state."""
    there = named_tensors(slim, once=True)
    for name, tensor in named_tensors(dense, once=True).items():
        if name not in there or not close(there[name].detach(), picked(tensor.detach(), cut.tensors.get(name, {})), tolerance):
            return f"it leaves other values in {name!r}"
    return ""


def _cut_there(cut: Cut, analysis: Analysis, labels: Watching) -> tuple[Cut, list[tuple[str, int]]]:
    """The same cut by the labels of another run, and the axes of tensors that it reads of which that takes others."""
    lost = _lost(cut)
    gone: dict[str, np.ndarray] = {}
    nothing = np.zeros(0, np.int64)
    for group in analysis.free:
        away = np.ones(group.size, bool)
        for member in group.members:
            away &= np.isin(member.indices, lost.get((member.name, member.axis), nothing)).all(1)
        if away.any():
            gone[group.id] = np.flatnonzero(away)
    other = analysis.cut(gone)
    places = {(n, a) for c in (cut, other) for n, axes in c.tensors.items() if n in labels.order for a in axes}

    def kept_at(one: Cut, place: tuple[str, int]) -> Any:
        found = one.tensors.get(place[0], {}).get(place[1])
        return None if found is None else found.tolist()

    return other, sorted(p for p in places if kept_at(cut, p) != kept_at(other, p))


def _lost(cut: Cut) -> dict[tuple[str, int], np.ndarray]:
    tensors = cut.analysis.traced.tensors
    return {
        (name, axis): np.setdiff1d(np.arange(tensors[name].shape[axis]), kept)
        for name, axes in cut.tensors.items()
        for axis, kept in axes.items()
    }


def groups_of_fault(fault: Fault, labels: Watching | None, cut: Cut) -> list[str]:
    """The groups that lose channels where two models are not alike: at the operator, else at the ones before it, else in the
    module in which it ran."""
    lost = _lost(cut)
    if fault.places:
        return _with_members(cut, {p: lost.get(p, np.zeros(0, np.int64)) for p in fault.places})
    if labels is None:
        return []
    solution = solve(labels.store, cut.analysis.attention)
    before = reversed(labels.seen[max(0, fault.number - 8) : fault.number])
    for axes in (fault.axes, *(axes_in([seen.inputs, seen.axes]) for seen in before)):
        if found := _with_members(cut, _entries(axes, labels, solution, lost)):
            return found
    prefix = f"{fault.scope}." if fault.scope else ""
    return _with_members(cut, {p: ids for p, ids in lost.items() if prefix and p[0].startswith(prefix)})


def _entries(
    axes: list[Any], labels: Watching, solution: Solution, lost: dict[tuple[str, int], np.ndarray]
) -> dict[tuple[str, int], np.ndarray]:
    """Entries of the model's tensors that are gone and of one class with what lies on some axes."""
    touched = np.zeros(solution.classes, bool)
    for axis in axes:
        if axis.labels is not None:
            touched[solution.root[axis.labels]] = True
    touched &= ~solution.fixed
    for whole, left, right in solution.composites:
        if touched[whole].any():
            touched[left] = touched[right] = True
    touched = solution.close(touched)
    found = {}
    for (name, axis), ids in lost.items():
        mine = labels.axes(labels.names.tensors[name])[axis].labels
        if mine is not None:
            hit = ids[touched[solution.root[mine[ids]]]]
            if len(hit):
                found[name, axis] = hit
    return found


def _with_members(cut: Cut, entries: dict[tuple[str, int], np.ndarray]) -> list[str]:
    found = []
    for group in cut.analysis.free:
        gone = cut.gone.get(group.id)
        if gone is None:
            continue
        if any(np.isin(m.indices[gone], entries[m.name, m.axis]).any() for m in group.members if (m.name, m.axis) in entries):
            found.append(group.id)
    return found
