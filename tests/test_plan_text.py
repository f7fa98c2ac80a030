"""The text of a plan: the bytes that the plain way would give."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fxprune.planning.document import rounded
from fxprune.planning.indented import indented
from fxprune.planning.plan import GroupPlan, Plan

KEYS = st.text(max_size=6)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
DOCUMENTS = st.recursive(
    SCALARS | st.lists(st.integers() | st.floats()),
    lambda part: (
        st.lists(part, max_size=5)
        | st.lists(part, max_size=3).map(tuple)
        | st.dictionaries(KEYS, part, max_size=5)
        | st.dictionaries(st.integers() | st.floats(allow_nan=False) | st.booleans(), part, max_size=4)
    ),
    max_leaves=40,
)
COUNTS = st.integers(0, 1 << 40)
INDICES = st.lists(st.integers(0, 4096), max_size=8)
GROUPS = st.builds(
    GroupPlan,
    id=st.text(max_size=9),
    size=COUNTS,
    status=st.sampled_from(["free", "protected", "frozen"]),
    reason=st.text(max_size=9),
    exact=st.booleans(),
    members=st.lists(st.tuples(st.text(max_size=9), st.integers(0, 4), st.text(max_size=9)), max_size=4),
    kept=INDICES,
    scores=st.none() | st.lists(st.floats(), max_size=8),
)
PLANS = st.builds(
    Plan,
    model=st.text(max_size=9),
    fingerprint=st.text(max_size=9),
    options=st.dictionaries(KEYS, DOCUMENTS, max_size=4),
    groups=st.lists(GROUPS, max_size=4),
    kept=st.dictionaries(KEYS, st.dictionaries(st.integers(0, 4), INDICES, max_size=3), max_size=4),
    macs=st.tuples(COUNTS, COUNTS),
    params=st.tuples(COUNTS, COUNTS),
    whole=st.dictionaries(KEYS, st.text(), max_size=3),
    tied=st.dictionaries(KEYS, KEYS, max_size=3),
    example=st.lists(st.dictionaries(KEYS, DOCUMENTS, max_size=3), max_size=3),
)


def plainly(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(DOCUMENTS)
def test_indented_gives_the_bytes_of_json(document: Any) -> None:
    assert indented(document) == plainly(document)


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "document",
    [
        *([], {}, (), "", [[]], [{}], {"": {}}, [[], [[]]], {"a": ()}),
        *([math.nan, math.inf, -math.inf, -0.0, 1e400, 5e-324], {"x": math.nan}, math.inf),
        *([True, 1, 1.0, None, "1"], {1: "int"}, {True: "truth"}, {None: 0}, {1.0: "float"}, {-0.0: 0}),
        *('"\\\n\t\x00\x7f', "\u00e9\u2028\U0001f600\ud800", {"\ud800": ["\U0001f600"]}, ["a,\n b: [1]"]),
        *(OrderedDict(b=1, a=2), [Pair(1, [2])], {"b": {"c": [1, [2]]}, "a": 1}, [1, [2], 3], 10**30),
    ],
    ids=repr,
)
def test_indented_at_the_edges(document: Any) -> None:
    assert indented(document) == plainly(document)


@pytest.mark.parametrize("wrong", [{1, 2}, [1, {2}], {"a": np.int64(1)}, [np.int64(1)], {(1, 2): 3}, {"a": 1, 2: 3}], ids=repr)
def test_indented_refuses_what_json_does(wrong: Any) -> None:
    for write in (plainly, indented):
        with pytest.raises(TypeError):
            write(wrong)


@given(PLANS)
@settings(deadline=None, max_examples=40)
def test_a_plan_has_the_bytes_of_the_plain_way(plan: Plan) -> None:
    document = dataclasses.asdict(plan)
    document["kept"] = {name: {str(axis): ids for axis, ids in axes.items()} for name, axes in plan.kept.items()}
    if document["account"] is None:  # of a plan by a ratio
        del document["account"]
    if not document["branches"]:  # which were no candidates
        del document["branches"]
    head = json.dumps({"format": "fxprune-plan", "version": document.pop("version")})[:-1]
    assert plan.to_json() == head + ", " + plainly(document)[1:] + "\n"


def test_writing_a_plan_changes_nothing() -> None:
    group = GroupPlan("g", 4, "free", "", True, [("w", 0, "producer")], [0, 2], [0.5, 1.0, 2.0, 3.0])
    plan = Plan("M", "f", {"ratio": 0.5}, [group], {"w": {0: [0, 2]}}, (4, 2), (4, 2))
    before = dataclasses.asdict(plan)
    text = plan.to_json()
    assert dataclasses.asdict(plan) == before
    assert Plan.from_json(text).to_json() == text


# -- scores ----------------------------------------------------------------------------------------------------------------


def one_by_one(scores: np.ndarray) -> list[float]:
    return [float(f"{score:.6g}") for score in scores]


def bits(values: np.ndarray | list[float]) -> list[int]:
    return np.array(values, np.float64).view(np.int64).tolist()


@given(
    st.lists(st.floats() | st.floats(1e-20, 1e25) | st.floats(-1e3, 1e3, width=32) | st.integers(-(10**8), 10**8), max_size=30)
)
def test_rounded_gives_the_bits_of_formatting(scores: list[float]) -> None:
    assert bits(rounded(np.array(scores, np.float64))) == bits(one_by_one(np.array(scores, np.float64)))


def near_the_edges() -> np.ndarray:
    """Powers of ten and middles between two neighbours, with their nearest floats on both sides."""
    rng = np.random.default_rng(0)
    middles = (rng.integers(100000, 1000000, 4000) + 0.5) * 10.0 ** rng.integers(-30, 20, 4000)
    edges = np.concatenate([10.0 ** np.arange(-30, 30), 10.0 ** np.arange(-30, 30) * 0.9999995, middles])
    around = [edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf), edges * (1 + 1e-12), edges * (1 - 1e-12)]
    return np.concatenate([*around, *(-part for part in around), [0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324]])


@pytest.mark.parametrize(
    "scores",
    [near_the_edges(), np.random.default_rng(1).standard_normal(20000), np.arange(20000) / 7, np.zeros(0)],
    ids=["edges", "normal", "sevenths", "none"],
)
def test_rounded_on_many(scores: np.ndarray) -> None:
    assert bits(rounded(scores)) == bits(one_by_one(scores))
