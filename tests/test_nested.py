"""Nested values: what is a container, what is a leaf, and that containers keep their types."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.fx.immutable_collections import immutable_list

from fxprune import nested

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Output:
    logits: Any
    hidden: Any = None


CONTAINERS: dict[str, tuple[Any, list[Any]]] = {
    "tuple": ((1, (2, 3)), [1, 2, 3]),
    "list": ([1, [], [2]], [1, 2]),
    "dict": ({"b": 1, "a": [2]}, [1, 2]),
    "ordered dict": (OrderedDict(b=1, a=2), [1, 2]),
    "default dict": (defaultdict(list, {"a": 1}), [1]),
    "named tuple": (Pair(1, Pair(2, 3)), [1, 2, 3]),
    "dataclass": (Output(1, [2]), [1, 2]),
    "slice": (slice(1, None, 2), [1, None, 2]),
    "size": (torch.Size([1, 2]), [1, 2]),
    "list of fx": (immutable_list([1, 2]), [1, 2]),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers_are_walked_in_order_and_keep_their_types(kind: str) -> None:
    value, expected = CONTAINERS[kind]
    assert list(nested.leaves(value)) == expected
    again = nested.map(lambda leaf: leaf, value)
    assert type(again) is type(value) and again == value
    if all(leaf is not None for leaf in expected):
        more = nested.map(lambda leaf: leaf + 1, value)
        assert list(nested.leaves(more)) == [leaf + 1 for leaf in expected]
    assert list(nested.leaves(value)) == expected  # it is not changed


@pytest.mark.parametrize("value", [None, 3, "text", b"text", {1, 2}, range(3), torch.float32, len], ids=repr)
def test_everything_else_is_a_leaf(value: Any) -> None:
    assert list(nested.leaves(value)) == [value]
    assert nested.map(lambda leaf: [leaf], value) == [value]


@pytest.mark.parametrize("value", [(), [], {}, OrderedDict()], ids=repr)
def test_empty_containers_have_no_leaves(value: Any) -> None:
    assert list(nested.leaves(value)) == [] and nested.map(str, value) == value


def test_attributes_of_a_dict_are_kept() -> None:
    class Tagged(dict):
        tag = "none"

    value = Tagged(a=1)
    value.tag = "some"
    assert nested.map(lambda leaf: -leaf, value).tag == "some"


def test_values_of_one_form_are_walked_along() -> None:
    found = nested.map(lambda a, b: (a, b), {"x": [1, 2]}, {"x": ["a", ("b", "c")]})
    assert found == {"x": [(1, "a"), (2, ("b", "c"))]}  # where the other goes deeper, all of it


@pytest.mark.parametrize(
    ("value", "other", "error"), [([1, 2], [1], ValueError), ({"a": 1}, {}, KeyError)], ids=["lengths", "keys"]
)
def test_values_of_other_forms_are_refused(value: Any, other: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        nested.map(lambda a, b: a, value, other)


def test_objects_of_a_class_are_found_and_not_looked_into() -> None:
    outer = Output(Output(1))
    assert nested.instances(Output, [outer, 3]) == [outer]
    assert nested.instances(str, [outer, 3]) == []


def test_tensors_are_found_in_every_container() -> None:
    a, b = torch.zeros(1), torch.zeros(2)
    found = nested.tensors({"x": [a, None, "text"], "y": Output(3, (b,))})
    assert [id(t) for t in found] == [id(a), id(b)]
    assert nested.tensors({"x": [1, None]}) == []


def test_a_class_whose_module_is_no_text_is_somebodys_own() -> None:
    """Functions of Cython have a member there."""
    kind = type("Own", (), {"__module__": property(lambda self: "own")})
    assert nested.home_of(kind) == "" and nested.form_of(kind()) == "object"
