"""From a choice of channels to a slim model that was compared: where it is not alike, numbers are set, or groups stay whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from fxprune.analysis.cut import Cut
from fxprune.errors import InputError, NotEquivalent, NothingToPrune, said
from fxprune.passes.base import Mismatch
from fxprune.shrinking.slots import Setting, settings
from fxprune.shrinking.watched.analysis import Watched, random_session, unread_parameters
from fxprune.shrinking.watched.calls import Session, other_sessions
from fxprune.shrinking.watched.comparing import Outcome, groups_of_fault, in_enough_precision
from fxprune.shrinking.watched.lockstep import Fault
from fxprune.shrinking.watched.slimming import Chosen

__all__ = ["Fitted", "Gone", "compared", "fit_watched"]

_TRIES = 24  # numbers that are tried at one operator
_ROUNDS = 200
_MORE = 12  # sessions, until every parameter was used
_END = 1 << 60  # of all operators
Gone = Mapping[str, np.ndarray]
Choose = Callable[[Mapping[str, str]], Gone]
Lowest = Callable[[str, int], np.ndarray]


@dataclass
class Fitted:
    """A cut whose slim model is alike.

    Attributes:
        frozen: groups that stayed whole -> why.
        outcomes: of the sessions that were compared.
        skipped: another batch, where the model takes none.
    """

    cut: Cut
    chosen: Chosen
    frozen: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def error(self) -> float:
        """The largest relative difference of a result."""
        return max((o.compared.error for o in self.outcomes if o.compared is not None), default=0.0)


def fit_watched(watched: Watched, gone: Gone, choose: Choose | None = None, lowest: Lowest | None = None) -> Fitted:
    """Compare the slim model of a choice with the dense one, until they are alike.

    Args:
        choose: what goes instead where groups turn out to stay whole; the same without these if not given.
        lowest: so many channels of a group, those that go first: where code has one number for several groups (``head_dim`` of
            queries and values), each of them may lose as many as they do on average. None: they lose what they lose.

    Raises:
        NothingToPrune: every group stays whole.
        NotEquivalent: they are not alike, and no group explains it.
    """
    frozen: dict[str, str] = {}
    chosen = Chosen()
    for _ in range(_ROUNDS):
        if not any(map(len, gone.values())):
            raise NothingToPrune(watched.analysis.nothing(frozen))
        cut = watched.analysis.cut(gone)
        try:
            found = compared(watched, cut, chosen)
        except Mismatch as mismatch:
            wrong = {name: str(mismatch) for name in mismatch.groups}
        except NotImplementedError as error:  # of tensors whose values PyTorch does not compare: sparse ones
            raise InputError(
                f"{watched.analysis.model_name} cannot be compared operator by operator: {said(error)[:160]}"
            ) from error
        else:
            wrong = found.frozen
            if not wrong:
                found.frozen = frozen
                return found
            if lowest is not None and (even := _evened(watched, gone, {*wrong}, lowest)) is not None:
                gone, chosen = even, Chosen()
                continue
        frozen |= wrong
        gone = {n: c for n, c in gone.items() if n not in frozen} if choose is None else choose(frozen)
        chosen = Chosen()
    raise NotEquivalent(f"{watched.analysis.model_name} in its own class was not alike after {_ROUNDS} tries")


def _evened(watched: Watched, gone: Gone, wrong: set[str], lowest: Lowest) -> Gone | None:
    """The same with as many channels of each group of the sizes of some; None where that is so already."""
    free = {g.id: g for g in watched.analysis.free}
    made = dict(gone)
    for size in {free[name].size for name in wrong}:
        names = [name for name, group in free.items() if group.size == size]
        count = round(sum(len(gone.get(name, ())) for name in names) / len(names))
        for name in names:
            if len(gone.get(name, ())) != count:
                made[name] = lowest(name, count)
    return made if any(len(made[name]) != len(gone.get(name, ())) for name in made) else None


def compared(watched: Watched, cut: Cut, chosen: Chosen) -> Fitted:
    """The sessions that were compared until one of them showed what has to stay whole: then ``frozen`` says what."""
    fitted = Fitted(cut, chosen)
    for alternatives in [*([session] for session in watched.sessions), *other_sessions(watched.example)]:
        taken = _one_of(watched, fitted, alternatives)
        if fitted.frozen:
            return fitted
        if not taken:
            fitted.skipped += [session.name for session in alternatives if session.seed == 1][:1]
    names = watched.analysis.traced.names
    read: dict[str, None] = {}
    for seed in range(_MORE):  # what the slim model did not use, on paths of its own
        for outcome in fitted.outcomes:
            read |= {} if outcome.labels is None else outcome.labels.order
        if not (left := unread_parameters(names, read)):
            return fitted
        _one_of(watched, fitted, [random_session(watched.example, own=seed % 4 < 2, seed=20 + seed)])
        if fitted.frozen:
            return fitted
    raise NotEquivalent(
        f"{watched.analysis.model_name} cannot be pruned in its own class: no run of the slim model uses {left[0]!r}, so that "
        "it was not compared; give example_inputs that use it"
    )


def _one_of(watched: Watched, fitted: Fitted, alternatives: list[Session]) -> bool:
    """Compare the first session that the model takes; whether there is one."""
    for session in alternatives:
        outcome = _settled(watched, fitted.cut, fitted.chosen, session)
        if outcome.compared is None:
            continue
        if outcome.faults:
            fitted.frozen = _culprits(outcome, fitted.cut, watched)
        else:
            fitted.outcomes.append(outcome)
        return True
    return False


def _settled(watched: Watched, cut: Cut, chosen: Chosen, session: Session) -> Outcome:
    """Compare a session; where numbers of the model explain what is not alike, they are set."""
    outcome = in_enough_precision(watched, cut, chosen, session)
    while outcome.faults and (better := _with_number(watched, cut, chosen, outcome)) is not None:
        outcome = better
    return outcome


def _with_number(watched: Watched, cut: Cut, chosen: Chosen, outcome: Outcome) -> Outcome | None:
    """Set the number of a module around the first operator that is not alike with which the models are alike furthest."""
    first, best, setting = outcome.faults[0].number, None, None
    for owner, one in _candidates(watched, cut, outcome.faults[0], chosen)[:_TRIES]:
        with _set(chosen, owner, one):
            found = in_enough_precision(watched, cut, chosen, outcome.session)
        reached = found.faults[0].number if found.faults else _END
        if reached > first:
            first, best, setting = reached, found, (owner, one)
        if reached == _END:
            break
    if setting is not None:
        chosen.settings.setdefault(setting[0], []).append(setting[1])
    return best


@contextmanager
def _set(chosen: Chosen, owner: str, one: Setting) -> Iterator[None]:
    """Inside, one more number is set."""
    before = dict(chosen.settings)
    chosen.settings[owner] = [*before.get(owner, []), one]
    try:
        yield
    finally:
        chosen.settings.clear()
        chosen.settings.update(before)


def _candidates(watched: Watched, cut: Cut, fault: Fault, chosen: Chosen) -> list[tuple[str, Setting]]:
    """Numbers of the modules around an operator that are sizes which are others now, those of the innermost first."""
    sizes: dict[int, dict[int, None]] = {}
    prefix = f"{fault.scope}." if fault.scope else ""
    names = watched.analysis.traced.tensors
    near = [
        (names[n].shape[d], len(kept)) for n, axes in cut.tensors.items() if n.startswith(prefix) for d, kept in axes.items()
    ]
    for old, new in near:
        sizes.setdefault(int(old), {})[new] = None
        for part in range(2, 65):  # a head's share of all
            if old % part == 0 and new % part == 0:
                sizes.setdefault(int(old) // part, {})[new // part] = None
    taken = {(owner, str(s.slot)) for owner, found in chosen.settings.items() for s in found}
    found: list[tuple[str, Setting]] = []
    scope: str | None = fault.scope
    while scope is not None:
        part_of_model = watched.model.get_submodule(scope)
        numbers = settings(part_of_model, {old: list(news) for old, news in sizes.items()})
        found += [(scope, one) for one in numbers if (scope, str(one.slot)) not in taken]
        scope = scope.rpartition(".")[0] if scope else None
    return found


def _culprits(outcome: Outcome, cut: Cut, watched: Watched) -> dict[str, str]:
    """Groups -> why they stay whole.

    Raises:
        NotEquivalent: no group explains what is not alike.
    """
    found: dict[str, str] = {}
    for fault in outcome.faults:
        for name in groups_of_fault(fault, outcome.labels, cut):
            found.setdefault(name, f"{fault.what} (in {fault.scope or 'the model itself'})")
        if fault.places or (fault.number == outcome.faults[0].number and not found):
            break
    if not found:
        first = outcome.faults[0]
        raise NotEquivalent(
            f"{watched.analysis.model_name} cannot be pruned in its own class: with {outcome.session.name}, at operator "
            f"{first.number} in {first.scope or 'the model itself'}, {first.what}, and no group of channels explains it; keep "
            "layers with ignore=[...]"
        )
    return found
