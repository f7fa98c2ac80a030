"""`solve`: from recorded facts to classes, over stores written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fxprune.labels.solver import Solution, solve
from fxprune.labels.store import Axis, Cause, LabelStore


def classes(found: Solution, axis: Axis) -> list[int]:
    """The class of each entry."""
    return found.root[axis.labels].tolist()


def fixed(found: Solution, axis: Axis) -> list[bool]:
    """Of each entry, whether it stays for good."""
    return found.fixed[found.root[axis.labels]].tolist()


def said(store: LabelStore, found: Solution, axis: Axis) -> set[str]:
    """Why the fixed entries of an axis stay."""
    ids = [c for c in classes(found, axis) if found.fixed[c]]
    return {store.causes[found.cause[c]].text for c in ids}


def axes(store: LabelStore, *sizes: int) -> list[Axis]:
    return [store.fresh(size) for size in sizes]


# -- equalities and fixed labels ---------------------------------------------------------------------------


def test_equal_axes_are_one_class_and_others_are_not() -> None:
    store = LabelStore()
    a, b, c, d = axes(store, 3, 3, 3, 3)
    store.unify(a, b, 0)
    store.unify(b, c, 0)
    found = solve(store)
    assert classes(found, a) == classes(found, b) == classes(found, c)
    assert len(set(classes(found, a) + classes(found, d))) == 6
    assert not any(fixed(found, a) + fixed(found, d))


def test_parts_of_axes_are_equal_entry_by_entry() -> None:
    store = LabelStore()
    a, b = axes(store, 4, 2)
    store.unify(a[slice(0, 4, 2)], b, 0)
    found = solve(store)
    assert classes(found, a)[::2] == classes(found, b)
    assert not set(classes(found, a)[1::2]) & set(classes(found, b))


def test_what_is_equal_to_a_fixed_axis_is_fixed_and_nothing_else() -> None:
    store = LabelStore()
    a, b, c = axes(store, 3, 3, 3)
    store.unify(a, b, 0)
    store.fix(b[slice(1, 2)], store.cause(Cause("roll")))
    found = solve(store)
    assert fixed(found, a) == fixed(found, b) == [False, True, False]
    assert said(store, found, a) == {"roll"}
    assert not any(fixed(found, c))


def test_of_two_causes_of_one_channel_the_one_met_first_is_told() -> None:
    store = LabelStore()
    a, b = axes(store, 2, 2)
    first, second = (store.cause(Cause(text)) for text in ("first", "second"))
    store.fix(b, second)
    store.fix(a, first)
    store.unify(a, b, 0)
    assert said(store, solve(store), b) == {"first"}


def test_entries_without_a_label_fix_what_they_meet() -> None:
    """A concatenation with a fixed part has label 0 there."""
    store = LabelStore()
    a, b = axes(store, 2, 5)
    store.unify(store.concat([Axis(3), a]), b, 0)
    found = solve(store)
    assert fixed(found, b) == [True] * 3 + [False] * 2
    assert classes(found, b)[3:] == classes(found, a)


# -- products ----------------------------------------------------------------------------------------------


def product(left: int = 2, right: int = 3) -> tuple[LabelStore, Axis, Axis, Axis]:
    """A store with one product: whole, left, right."""
    store = LabelStore()
    whole, a, b = axes(store, left * right, left, right)
    store.product(whole, a, b, 0)
    return store, whole, a, b


def test_of_a_fixed_left_factor_each_row_is_the_right_one() -> None:
    store, whole, left, right = product()
    store.fix(left, 0)
    found = solve(store)
    assert classes(found, whole) == classes(found, right) * 2
    assert not any(fixed(found, right))


def test_of_a_fixed_right_factor_each_column_is_the_left_one() -> None:
    store, whole, left, right = product()
    store.fix(right, 0)
    found = solve(store)
    assert classes(found, whole) == np.repeat(classes(found, left), 3).tolist()
    assert not any(fixed(found, left))


def test_a_fixed_entry_of_the_whole_fixes_its_row_and_its_column() -> None:
    store, whole, left, right = product()
    store.fix(whole[slice(4, 5)], 0)  # row 1, column 1
    found = solve(store)
    assert fixed(found, left)[1] and fixed(found, right)[1]
    assert fixed(found, right) == [False, True, False]
    assert fixed(found, whole) == [False, True, False] * 2


def test_a_product_with_both_factors_fixed_is_fixed() -> None:
    store, whole, left, right = product()
    store.fix(left, 0)
    store.fix(right, 0)
    assert all(fixed(solve(store), whole))


@pytest.mark.parametrize(("sizes", "free"), [((2, 3), "right"), ((3, 2), "left"), ((3, 3), "left")])
def test_the_larger_of_two_free_factors_stays_free(sizes: tuple[int, int], free: str) -> None:
    store, whole, left, right = product(*sizes)
    found = solve(store)
    kept, lost = (left, right) if free == "left" else (right, left)
    assert not any(fixed(found, kept)) and all(fixed(found, lost))
    assert said(store, found, lost) == {f"an axis of {sizes[0]} x {sizes[1]} loses entries along one factor only"}
    assert set(classes(found, whole)) == set(classes(found, kept))
    assert not found.composites


def test_two_products_over_one_whole_have_equal_factors() -> None:
    store, whole, _, right = product()
    other_left, other_right = axes(store, 2, 3)
    store.product(whole, other_left, other_right, 0)
    found = solve(store)
    assert classes(found, right) == classes(found, other_right)
    assert not any(fixed(found, right))


def test_two_products_of_other_shapes_leave_one_channel() -> None:
    """6 = 2 x 3 = 3 x 2: every row of the one meets every column of the other."""
    store, whole, _, right = product()
    other_left, other_right = axes(store, 3, 2)
    store.product(whole, other_left, other_right, 0)
    found = solve(store)
    assert len(set(classes(found, whole) + classes(found, right) + classes(found, other_left))) == 1


def test_products_of_equal_factors_have_equal_wholes() -> None:
    store, whole, left, right = product()
    again, apart = axes(store, 6, 6)
    store.product(again, left, right, 0)
    found = solve(store, "both")
    assert classes(found, whole) == classes(found, again)
    assert not set(classes(found, apart)) & set(classes(found, whole))


# -- heads, and groups of convolutions ---------------------------------------------------------------------


def heads(count: int = 2, dim: int = 3) -> tuple[LabelStore, Axis, Axis, Axis]:
    """Channels of attention: whole, heads, head_dim."""
    store, whole, left, right = product(count, dim)
    store.mark_batched(left)
    return store, whole, left, right


@pytest.mark.parametrize(
    ("policy", "free_heads", "free_dims"),
    [("head_dim", False, True), ("heads", True, False), ("both", True, True), ("none", False, False)],
)
def test_attention_policies(policy: Any, free_heads: bool, free_dims: bool) -> None:
    store, whole, left, right = heads(4, 3)
    found = solve(store, policy)
    assert fixed(found, left) == [not free_heads] * 4
    assert fixed(found, right) == [not free_dims] * 3
    assert all(fixed(found, whole)) == (policy == "none")
    assert bool(found.composites) == (policy == "both")
    if policy != "both":
        assert all(f"attention={policy!r} keeps" in text for text in said(store, found, left) | said(store, found, right))


def test_the_policy_decides_nothing_where_no_axis_is_heads() -> None:
    store, _, left, right = product(4, 3)
    found = solve(store, "heads")
    assert not any(fixed(found, left)) and all(fixed(found, right))
    assert not any("attention" in text for text in said(store, found, right))


def test_a_composite_goes_with_either_factor() -> None:
    store, whole, left, right = heads()
    found = solve(store, "both")
    pairs = [[a, b] for a in classes(found, left) for b in classes(found, right)]
    assert found.factors[found.root[whole.labels]].tolist() == pairs
    removed = np.zeros(found.classes, bool)
    removed[classes(found, left)[1]] = True
    removed[classes(found, right)[0]] = True
    gone = found.close(removed)[found.root[whole.labels]]
    assert gone.reshape(2, 3).tolist() == [[True, False, False], [True, True, True]]
    assert not found.close(np.zeros(found.classes, bool)).any()


def test_what_is_no_composite_has_no_factors() -> None:
    store, *_ = heads()
    found = solve(store, "head_dim")
    assert (found.factors == -1).all()


def test_groups_of_a_convolution_and_their_channels_exclude_each_other() -> None:
    store, _, left, right = product()
    store.grouped.append(left.labels)
    found = solve(store)
    assert not any(fixed(found, left) + fixed(found, right))
    ((one, other),) = found.exclusive
    assert one.tolist() == classes(found, left) and other.tolist() == classes(found, right)


def test_heads_do_not_exclude_their_dimensions() -> None:
    store, *_ = heads()
    found = solve(store, "both")
    assert found.composites and not found.exclusive


def test_a_statistic_over_the_whole_runs_over_both_factors() -> None:
    store, whole, left, right = heads()
    (other,) = axes(store, 3)
    store.mark_statistics(whole)
    found = solve(store, "both")
    assert found.statistics[found.root[np.concatenate([left.labels, right.labels])]].all()
    assert not found.statistics[found.root[other.labels]].any()
