"""Outputs keep their class in a GraphModule, and in generated source are read as the model's are."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from support.codegen import run_once
from torch import Tensor, nn

import fxprune
from fxprune import nested
from fxprune.codegen import rebuild
from fxprune.codegen.roundtrip import same_result
from tests.kinds.base import Case, rows
from tests.kinds.outputs import CASES, Plain, hf, returned


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_generated_source_returns_the_same_tensors(case: Case) -> None:
    recorded = fxprune.trace(case.make(), case.inputs(2))
    made = rebuild(recorded)
    inputs = case.inputs(3)
    for training in (False, True):
        expected, found = (run_once(model.train(training), inputs) for model in (recorded, made))
        assert len(expected) == len(found) and all(map(same_result, expected, found))


def test_a_small_dict_stands_for_a_model_output() -> None:
    pytest.importorskip("transformers")
    made = rebuild(fxprune.trace(returned("", hf).make(), rows(2)))
    out = made(*rows(3))
    assert out.last_hidden_state is out["last_hidden_state"] is out[0] is out.to_tuple()[0]
    assert list(out) == ["last_hidden_state", "hidden_states"] and out.pooler_output is None and len(out[1:]) == 1
    with pytest.raises(AttributeError, match="unknown"):
        _ = out.unknown
    with pytest.raises(KeyError):
        out["unknown"]


def test_objects_are_read_by_attribute_in_generated_source() -> None:
    out = rebuild(fxprune.trace(returned("", lambda y, x: Plain(y, [x])).make(), rows(2)))(*rows(3))
    assert out.logits.shape == (3, 4) and out.count == 3 and out.names == ["a"] and out.hidden[0].shape == (3, 8)


class Tag:
    """What a graph has no words for."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclasses.dataclass
class Tagged:
    logits: Tensor
    tag: Tag


def test_objects_of_one_class_keep_what_tells_them_apart() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            return Tagged(self.fc(x), Tag(1)), Tagged(self.fc(x.relu()), Tag(2))

    recorded = fxprune.trace(Two(), torch.randn(2, 8))
    for module in (recorded, copy.deepcopy(recorded)):
        assert [found.tag.number for found in module(torch.randn(3, 8))] == [1, 2]


class Inside(nn.Module):
    """A model whose path depends on data, with a part that returns an object."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Any:
        out = self.part(x)
        return out if x.sum() > -1e9 else None


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_objects_of_submodules(case: Case) -> None:
    model = Inside(case.make()).eval()
    slim = fxprune.prune(model, 0.5, case.inputs(2), submodules="part")
    x = case.inputs(3)
    expected, found = model(*x), slim(*x)
    assert type(found) is type(expected)
    assert len(nested.tensors(found)) == len(nested.tensors(expected))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_recordings_are_pickled_with_their_classes(case: Case, tmp_path: Any) -> None:
    recorded = fxprune.trace(case.make(), case.inputs(2))
    torch.save(recorded, tmp_path / "recorded.pt")
    again = torch.load(tmp_path / "recorded.pt", weights_only=False)
    for mode in (False, True):
        x = case.inputs(3)
        expected, found = recorded.train(mode)(*x), again.train(mode)(*x)
        assert type(expected) is type(found) and all(map(torch.equal, nested.tensors(expected), nested.tensors(found)))


def test_an_output_that_cannot_be_made_anew_is_refused_by_name() -> None:
    class Hiding(dict[str, Any]):
        def __init__(self, y: Tensor) -> None:
            super().__init__(y=y)
            self.beside = y * 2

    with pytest.raises(fxprune.TraceError, match=r"Hiding holds tensors in attributes beside its entries"):
        fxprune.trace(returned("", lambda y, x: Hiding(y)).make(), rows(2))


def test_objects_of_the_model_are_not_kept() -> None:
    model = returned("", lambda y, x: Plain(y, [x])).make()
    recorded = fxprune.trace(model, rows(2))
    first, second = recorded(*rows(2)), copy.deepcopy(recorded)(*rows(2))
    assert first is not second and first.hidden is not second.hidden
