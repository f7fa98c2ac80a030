"""`LabelStore`: the axes that come of merging, splitting, joining and copying, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fxprune.labels.solver import solve
from fxprune.labels.store import Axis, Cause, LabelStore, axes_in


def named(store: LabelStore, axis: Axis, **known: Axis) -> str:
    """Each entry by the name of the axis that it is one channel with: ``a0 a1 -``, - for what stays, ? for others."""
    found = solve(store, "both")
    names: dict[int, str] = {}
    for letter, source in known.items():
        if source.labels is not None:
            for place, c in enumerate(found.root[source.labels].tolist()):
                names.setdefault(c, f"{letter}{place}")
    if axis.labels is None:
        return " ".join("-" * axis.size)
    ids = found.root[axis.labels].tolist()
    return " ".join("-" if found.fixed[c] else names.get(c, "?") for c in ids)


def store_of(a: int, b: int) -> tuple[LabelStore, Axis, Axis]:
    store = LabelStore()
    return store, store.fresh(a), store.fresh(b)


Make = Callable[[LabelStore, Axis, Axis], Axis]

JOINED: dict[str, tuple[int, int, Make, str]] = {
    "one axis after another": (2, 3, lambda s, a, b: s.concat([a, b]), "a0 a1 b0 b1 b2"),
    "the same axis twice": (2, 3, lambda s, a, b: s.concat([a, b, a]), "a0 a1 b0 b1 b2 a0 a1"),
    "beside entries that stay": (2, 3, lambda s, a, b: s.concat([a, Axis(2)]), "a0 a1 - -"),
    "of nothing that can go": (2, 3, lambda s, a, b: s.concat([Axis(1), Axis(2)]), "- - -"),
    "repeated as a whole": (2, 3, lambda s, a, b: s.copies(a, 2, each=False), "a0 a1 a0 a1"),
    "each entry repeated": (2, 3, lambda s, a, b: s.copies(a, 2, each=True), "a0 a0 a1 a1"),
    "repeated, what stays": (2, 3, lambda s, a, b: s.copies(Axis(2), 2, each=True), "- - - -"),
    "some entries": (3, 2, lambda s, a, b: a[slice(None, None, 2)], "a0 a2"),
    "entries in another order": (3, 2, lambda s, a, b: a[np.array([2, 0, 0])], "a2 a0 a0"),
    "entries of what stays": (3, 2, lambda s, a, b: Axis(3)[slice(1, None)], "- -"),
}


@pytest.mark.parametrize("kind", JOINED)
def test_entries_are_those_of_the_sources(kind: str) -> None:
    first, second, make, expected = JOINED[kind]
    store, a, b = store_of(first, second)
    assert named(store, make(store, a, b), a=a, b=b) == expected


MERGED: dict[str, tuple[int, int, Make, str]] = {
    "both free: the larger stays so": (2, 3, lambda s, a, b: s.merge([a, b], 0), "b0 b1 b2 b0 b1 b2"),
    "outer axis stays": (2, 3, lambda s, a, b: s.merge([Axis(2), b], 0), "b0 b1 b2 b0 b1 b2"),
    "inner axis stays": (2, 3, lambda s, a, b: s.merge([a, Axis(3)], 0), "a0 a0 a0 a1 a1 a1"),
    "both stay": (2, 3, lambda s, a, b: s.merge([Axis(2), Axis(2)], 0), "- - - -"),
    "an axis of one before": (2, 3, lambda s, a, b: s.merge([Axis(1), b], 0), "b0 b1 b2"),
    "an axis of one after": (2, 3, lambda s, a, b: s.merge([a, Axis(1)], 0), "a0 a1"),
    "of three, the middle free": (2, 3, lambda s, a, b: s.merge([Axis(2), a, Axis(2)], 0), "a0 a0 a1 a1 a0 a0 a1 a1"),
}


@pytest.mark.parametrize("kind", MERGED)
def test_merging(kind: str) -> None:
    first, second, make, expected = MERGED[kind]
    store, a, b = store_of(first, second)
    merged = make(store, a, b)
    assert named(store, merged, a=a, b=b) == expected
    assert len(store.products) == (kind == "both free: the larger stays so")


@pytest.mark.parametrize(
    ("sizes", "fixed", "expected"),
    [
        ((3, 4), None, ["- - -", "a0 a1 a2 a3"]),
        ((3, 4), (True, False), ["- - -", "a0 a1 a2 a3"]),
        ((3, 4), (False, True), ["a0 a4 a8", "- - - -"]),
        ((3, 4), (True, True), ["- - -", "- - - -"]),
        ((12, 1), None, ["a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11", "-"]),
        ((1, 12), None, ["-", "a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11"]),
        ((2, 1, 6), (True, False, False), ["- -", "-", "a0 a1 a2 a3 a4 a5"]),
    ],
    ids=["both free", "outer stays", "inner stays", "both stay", "one after", "one before", "one between"],
)
def test_splitting(sizes: tuple[int, ...], fixed: tuple[bool, ...] | None, expected: list[str]) -> None:
    store = LabelStore()
    whole = store.fresh(12)
    parts = store.split(whole, sizes, 0, fixed)
    assert [part.size for part in parts] == list(sizes)
    assert [named(store, part, a=whole) for part in parts] == expected


def test_what_stays_is_split_into_what_stays() -> None:
    store = LabelStore()
    parts = store.split(Axis(6, None, True, 0), (1, 6), 0)
    assert [(p.size, p.labels, p.dynamic) for p in parts] == [(1, None, False), (6, None, True)]


def test_merging_what_was_split_gives_the_same_channels() -> None:
    """A view and the view back: equal factors have equal wholes."""
    store = LabelStore()
    whole = store.fresh(12)
    again = store.merge(store.split(whole, (3, 4), 0), 0)
    assert named(store, again, a=whole) == named(store, whole, a=whole)
    other = store.merge(store.split(whole, (4, 3), 0), 0)
    assert other.labels is not None and other.size == 12


# -- unify and fix -----------------------------------------------------------------------------------------


def test_unified_axes_are_recorded_once() -> None:
    store, a, b = store_of(3, 3)
    assert store.unify(a, a, 0) is a
    assert not store.pairs
    store.unify(a, b, 0)
    assert named(store, b, a=a) == "a0 a1 a2" and len(store.pairs) == 1


def test_unifying_with_what_stays_fixes() -> None:
    store, a, b = store_of(3, 3)
    cause = store.cause(Cause("the model's output"))
    found = store.unify(a, Axis(3, None, True, cause), 0)
    assert found.labels is None and found.dynamic and found.cause == cause
    assert named(store, a, a=a) == "- - -" and named(store, b, b=b) == "b0 b1 b2"


def test_fixing_what_stays_records_nothing() -> None:
    store, a, _ = store_of(3, 3)
    assert store.fix(Axis(3), 0).labels is None and not store.fixed
    assert store.fix(a, 0).labels is None and len(store.fixed) == 1


@pytest.mark.parametrize(("size", "free"), [(0, False), (1, False), (2, True)])
def test_a_single_entry_can_never_go(size: int, free: bool) -> None:
    assert (LabelStore().fresh(size).labels is not None) == free


def test_a_size_that_follows_the_input_stays_dynamic() -> None:
    store, a, b = store_of(3, 3)
    moving = Axis(3, b.labels, True)
    assert store.unify(a, moving, 0).dynamic and store.unify(moving, a, 0).dynamic
    assert store.concat([a, moving]).dynamic and not store.concat([a, b]).dynamic
    assert store.merge([a, moving], 0).dynamic and not store.merge([a, b], 0).dynamic


@pytest.mark.parametrize("mark", ["mark_statistics", "mark_batched"])
def test_marks_of_what_stays_are_not_kept(mark: str) -> None:
    store, a, _ = store_of(3, 3)
    kept = store.statistics if mark == "mark_statistics" else store.batched
    getattr(store, mark)(Axis(3))
    assert not kept
    getattr(store, mark)(a)
    assert len(kept) == 1


def test_equal_causes_are_one() -> None:
    store = LabelStore()
    one, again, other = (store.cause(Cause("roll", node)) for node in ("x", "x", "y"))
    assert one == again != other
    assert str(store.causes[one]) == "roll (at node x)" and str(Cause("roll")) == "roll"


def test_axes_in_nested_labels() -> None:
    _, a, b = store_of(2, 3)
    assert axes_in({"x": (a, None), "y": [b, "text"]}) == [a, b]
    assert axes_in(("text", 3)) == []
