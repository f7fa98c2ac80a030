"""Plans that somebody else wrote: read and applied to a right model, or refused in one sentence, and at once."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError, PlanMismatch, PruneError
from fxprune.planning.plan import Plan
from fxprune.studies.results import Study

SECONDS = 20.0  # that one plan may take on a busy machine; what hangs takes forever


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.head((self.body(x) * scale).mean((2, 3)))


def made() -> tuple[nn.Module, str, str]:
    torch.manual_seed(0)
    model = Net().eval()
    whole = fxprune.plan(model, 0.5, {"x": torch.zeros(2, 3, 4, 4), "scale": 2.0}, scope="layer")
    part = fxprune.plan(model, 0.5, torch.zeros(2, 3, 4, 4), submodules=["body"], scope="layer")
    return model, whole.to_json(), part.to_json()


MODEL, WHOLE, PART = made()
X = torch.randn(2, 3, 4, 4)


def harmless(text: Any) -> str:
    """Read and apply; gives what was said, or nothing where the plan was taken."""
    start = time.perf_counter()
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    try:
        plan = Plan.from_json(text)
        assert all(isinstance(group.removed, list) for group in plan.groups)
        assert Plan.from_json(plan.to_json()) == plan
        slim = fxprune.apply(MODEL, plan)
        scaled = any(entry["name"] == "scale" for entry in plan.example)
        assert slim(X, *([2.0] if scaled else [])).shape == (2, 4)
        if "submodules" not in plan.options:
            assert fxprune.verify(MODEL, slim, latency=False).passed
        said = ""
    except PruneError as error:
        said = str(error)
        assert "\n" not in said and len(said) < 1200 and "bug in fxprune" not in said, said
        said.encode()
    assert time.perf_counter() - start < SECONDS
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())
    return said


def changed(change: Callable[[dict[str, Any]], Any], text: str = WHOLE) -> str:
    document = json.loads(text)
    change(document)
    return json.dumps(document)


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Sets what a path of keys leads to: the last of `path`."""
    *way, key, value = path

    def change(document: Any) -> None:
        for step in way:
            document = document[step]
        document[key] = value

    return change


def test_the_plans_are_taken() -> None:
    assert harmless(WHOLE) == harmless(PART) == ""


FREE = next(i for i, g in enumerate(json.loads(WHOLE)["groups"]) if len(g["kept"]) < g["size"])
BIG = 10**12
HOSTILE: dict[str, Any] = {
    "huge group": changed(put("groups", FREE, "size", BIG)),
    "huge whole group": changed(put("groups", FREE, "size", 10**9)),
    "huge group by digits": WHOLE.replace('"size": 8', '"size": ' + "9" * 5000),
    "negative size": changed(put("groups", FREE, "size", -1)),
    "size of text": changed(put("groups", FREE, "size", "8")),
    "size of a truth value": changed(put("groups", FREE, "size", True)),
    "another size": changed(put("groups", FREE, "size", 7)),
    "kept twice": changed(put("groups", FREE, "kept", [0, 0, 1])),
    "kept unsorted": changed(put("groups", FREE, "kept", [1, 0])),
    "kept nothing": changed(put("groups", FREE, "kept", [])),
    "kept negative": changed(put("groups", FREE, "kept", [-1, 0])),
    "kept out of range": changed(put("groups", FREE, "kept", [0, 8])),
    "kept huge": changed(put("groups", FREE, "kept", [0, 2**70])),
    "kept truth values": changed(put("groups", FREE, "kept", [False, True])),
    "kept fractions": changed(put("groups", FREE, "kept", [0.0, 1.0])),
    "kept a number": changed(put("groups", FREE, "kept", 4)),
    "kept a mapping": changed(put("groups", FREE, "kept", {"0": 1})),
    "other kept": changed(put("groups", FREE, "kept", [0])),
    "no group": changed(put("groups", [])),
    "groups none": changed(put("groups", None)),
    "groups text": changed(put("groups", "groups")),
    "group of text": changed(put("groups", ["group"])),
    "unknown group": changed(put("groups", FREE, "id", "nothing.like.it")),
    "group id of a list": changed(put("groups", FREE, "id", ["a"])),
    "long id": changed(put("groups", FREE, "id", "x" * 10**6)),
    "group twice": changed(lambda d: d["groups"].append(d["groups"][FREE])),
    "group without kept": changed(lambda d: d["groups"][FREE].pop("kept")),
    "group with more": changed(put("groups", FREE, "more", 1)),
    "members of numbers": changed(put("groups", FREE, "members", [1, 2])),
    "scores of text": changed(put("groups", FREE, "scores", "high")),
    "scores of nothing": changed(put("groups", FREE, "scores", [])),
    "unknown status": changed(put("groups", FREE, "status", "lost")),
    "reason of a list": changed(put("groups", FREE, "reason", [])),
    "exactly maybe": changed(put("groups", FREE, "exact", "maybe")),
    "frozen yet pruned": changed(put("groups", FREE, "status", "frozen")),
    "kept tensors none": changed(put("kept", None)),
    "kept tensors nowhere": changed(put("kept", {})),
    "kept axis of text": changed(put("kept", "body.0.weight", {"first": [0]})),
    "kept axis twice": changed(lambda d: d["kept"]["body.0.weight"].update({"00": [0]})),
    "kept axis huge": changed(lambda d: d["kept"]["body.0.weight"].update({"9" * 6000: [0]})),
    "kept of another tensor": changed(put("kept", "nothing", {"0": [0]})),
    "options none": changed(put("options", None)),
    "options empty": changed(put("options", {})),
    "ratio none": changed(put("options", "ratio", None)),
    "ratio huge": changed(put("options", "ratio", 10**400)),
    "ratio code": changed(put("options", "ratio", "__import__('os').system('true')")),
    "attention unknown": changed(put("options", "attention", ["head_dim"])),
    "normalization unknown": changed(put("options", "normalization", "most")),
    "ignore a number": changed(put("options", "ignore", 3)),
    "ignore numbers": changed(put("options", "ignore", [3])),
    "ignore a deep pattern": changed(put("options", "ignore", ["*a" * 500 + "[!"])),
    "ignore all": changed(put("options", "ignore", ["*"])),
    "seed negative": changed(put("options", "seed", -1)),
    "macs of text": changed(put("macs", ["1", "2"])),
    "macs of one": changed(put("macs", [1])),
    "fingerprint of another": changed(put("fingerprint", "0")),
    "fingerprint of a list": changed(put("fingerprint", [])),
    "model of a number": changed(put("model", 3)),
    "whole of a list": changed(put("whole", [])),
    "tied to a number": changed(put("tied", {"a": 1})),
    "version of truth": changed(put("version", True)),
    "version 3": changed(put("version", 3)),
    "version huge": WHOLE.replace('"version": 1', '"version": ' + "1" * 4000),
    "no version": changed(lambda d: d.pop("version")),
    "another form": changed(put("format", "fxprune-study")),
    "more": changed(put("more", 1)),
    "example none": changed(put("example", None)),
    "example empty": changed(put("example", [])),
    "example of text": changed(put("example", ["x"])),
    "example huge": changed(put("example", 0, "value", "shape", [BIG, 3, 4, 4])),
    "example of huge images": changed(put("example", 0, "value", "shape", [2, 3, 10**5, 10**5])),
    "example beyond all": changed(put("example", 0, "value", "shape", [2**62, 3, 2**62, 4])),
    "example by digits": WHOLE.replace('"shape"', '"shape": [' + "1" * 5000 + '], "_"'),
    "example negative": changed(put("example", 0, "value", "shape", [-2, 3, 4, 4])),
    "example of fractions": changed(put("example", 0, "value", "shape", [2.0, 3, 4, 4])),
    "example of truth values": changed(put("example", 0, "value", "shape", [True, 3, 4, 4])),
    "example without axes": changed(put("example", 0, "value", "shape", [])),
    "example of nothing": changed(put("example", 0, "value", "shape", [0, 3, 4, 4])),
    "example of other channels": changed(put("example", 0, "value", "shape", [2, 5, 4, 4])),
    "example of many axes": changed(put("example", 0, "value", "shape", [1] * 5000)),
    "example of no dtype": changed(put("example", 0, "value", "dtype", "load")),
    "example of code": changed(put("example", 0, "value", "dtype", "nn.__builtins__")),
    "example of whole numbers": changed(put("example", 0, "value", "dtype", "int64")),
    "example of sub bytes": changed(put("example", 0, "value", "dtype", "bits1x8")),
    "example of an object": changed(put("example", 1, "value", "constant", {"__reduce__": ["os.system", "true"]})),
    "example of a list": changed(put("example", 1, "value", "constant", [1])),
    "example of nan": changed(put("example", 1, "value", "constant", float("nan"))),
    "example of infinity": changed(put("example", 1, "value", "constant", float("inf"))),
    "example of text for a number": changed(put("example", 1, "value", "constant", "two")),
    "example named otherwise": changed(put("example", 1, "name", "other")),
    "example named by a list": changed(put("example", 1, "name", ["scale"])),
    "example of a record of keywords": changed(put("example", 1, "value", {"record": [["class", {"constant": 1}]]})),
    "example of a record of code": changed(put("example", 1, "value", {"record": [["a=print(1)", {"constant": 1}]]})),
    "example of lists as keys": changed(put("example", 1, "value", {"dict": [[[1], {"constant": 1}]]})),
    "example nested deeply": WHOLE.replace('"constant": 2.0', '"list": [{' * 300 + '"constant": 1' + "}]" * 300),
    "nested beyond all": '{"format": "fxprune-plan", "version": 1, "groups": ' + "[" * 200_000,
    "a key twice": WHOLE.replace('"macs"', '"params": [1, 1], "macs"', 1),
    "a group's key twice": WHOLE.replace('"size"', '"size": 1, "size"', 1),
    "half characters": WHOLE.replace('"model": "Net"', '"model": "\\ud800"'),
    "half characters as they are": WHOLE.replace('"model": "Net"', '"model": "\ud800"'),
    "bytes": WHOLE.encode(),
    "bytes with a mark": b"\xef\xbb\xbf" + WHOLE.encode(),
    "bytes of another code": WHOLE.encode("utf-16"),
    "bytes of no code": b"\xff\xfe\x00",
    "a list": "[]",
    "a number": "1",
    "nothing": "",
    "none": None,
    "a mapping": {},
    "cut short": WHOLE[: len(WHOLE) // 2],
    "submodules of a number": changed(put("options", "submodules", 3), PART),
    "submodules of text": changed(put("options", "submodules", ["body"]), PART),
    "submodules unknown": changed(put("options", "submodules", 0, "name", "tail"), PART),
    "submodules of an attribute": changed(put("options", "submodules", 0, "name", "__class__"), PART),
    "submodules of everything": changed(put("options", "submodules", 0, "name", ""), PART),
    "submodules of an inner part": changed(put("options", "submodules", 0, "name", "body.0"), PART),
    "submodules without inputs": changed(put("options", "submodules", 0, "inputs", []), PART),
    "submodules twice": changed(lambda d: d["options"]["submodules"].append(d["options"]["submodules"][0]), PART),
    "submodules within another": changed(
        lambda d: d["options"]["submodules"].append({**d["options"]["submodules"][0], "name": "body.0"}), PART
    ),
    "submodules for the whole": changed(put("options", "submodules", [{"name": "body", "inputs": []}])),
}
TAKEN = {  # what these say is odd, and all that a model needs is right
    *("bytes", "bytes with a mark", "example of nan", "example of infinity", "frozen yet pruned"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_plan(kind: str) -> None:
    said = harmless(HOSTILE[kind])
    assert bool(said) != (kind in TAKEN), said


def test_what_is_no_plan() -> None:
    for wrong in (None, "plan", WHOLE, {}, 3, MODEL, Plan):
        with pytest.raises(InputError, match=r"Plan\.from_json"):
            fxprune.apply(MODEL, wrong)


def test_a_plan_of_another_model() -> None:
    with pytest.raises(PlanMismatch, match=r"another|other"):
        fxprune.apply(nn.Linear(2, 2), Plan.from_json(WHOLE))
    with pytest.raises(InputError, match=r"nn\.Module"):
        fxprune.apply("Net", Plan.from_json(WHOLE))


@pytest.mark.parametrize("kept", [[], [0, 0, 1], [-1, 2, 3, 4], [9], [0.5], ["a"], None])
def test_a_plan_that_was_changed_by_hand(kept: Any) -> None:
    plan = Plan.from_json(WHOLE)
    plan.groups[FREE].kept = kept
    with pytest.raises(PlanMismatch):
        fxprune.apply(MODEL, plan)


# -- at random ------------------------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([10**6, 2**31, 2**63, -(2**63), 10**12, 10**30]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["", "body", "body.0.weight", "0", "float16", "free", "constant", "shape", "\ud800", "__class__"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["shape", "dtype", "list", "dict", "0", "name", "value"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a document, and each key in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(items):
        yield value, key
        yield from places(part)


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    document = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(document))
        if not found:
            break
        owner, key = found[draw(st.integers(0, len(found) - 1))]
        how = draw(st.sampled_from(["set", "set", "drop", "copy", "swap"]))
        if how == "set":
            owner[key] = draw(VALUES)
        elif how == "drop":
            del owner[key]
        elif how == "copy" and isinstance(owner, list):
            owner.append(copy.deepcopy(owner[key]))
        else:
            other, name = found[draw(st.integers(0, len(found) - 1))]
            owner[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(owner[key])
    return json.dumps(document)


def fuzz(text: str, count: int) -> None:
    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(mutated(text))
    def run(changed: str) -> None:
        harmless(changed)

    run()


@pytest.mark.parametrize("text", [WHOLE, PART], ids=["whole", "part"])
def test_plans_changed_at_random(text: str, request: pytest.FixtureRequest) -> None:
    fuzz(text, request.config.getoption("--fuzz"))


@pytest.mark.slow
@pytest.mark.parametrize("text", [WHOLE, PART], ids=["whole", "part"])
def test_many_plans_changed_at_random(text: str) -> None:
    fuzz(text, 4000)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.sampled_from(list('{}[]",:0-9eE.\\untrfl \x00')) | st.characters())
def test_a_letter_changed(place: int, letter: str) -> None:
    harmless(WHOLE[:place] + letter + WHOLE[place + 1 :])


# -- studies --------------------------------------------------------------------------------------------------------------


def studied() -> str:
    torch.manual_seed(0)
    return fxprune.study(MODEL, ["l1", "l2"], X).to_json()


STUDY = studied()


def harmless_study(text: Any) -> None:
    try:
        found = Study.from_json(text)
        str(found), found.to_json()
        for name in found.criteria:
            found.of(name)
    except PruneError as error:
        said = str(error)
        assert "\n" not in said and len(said) < 1200
        said.encode()


@pytest.mark.parametrize(
    "text",
    [
        None,
        {},
        "",
        "[]",
        "{",
        "1" * 5000,
        "[" * 200_000,
        re.sub(r'"version":\d+', '"version":true', STUDY),
        STUDY[:-9],
        b"\xff",
    ],
    ids=range(10),
)
def test_what_is_no_study(text: Any) -> None:
    with pytest.raises(InputError):
        Study.from_json(text)


def test_studies_changed_at_random(request: pytest.FixtureRequest) -> None:
    @settings(max_examples=request.config.getoption("--fuzz") // 4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutated(STUDY))
    def run(changed: str) -> None:
        harmless_study(changed)

    run()
