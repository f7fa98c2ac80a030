"""What is done to a module's tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fxprune import state


class Tied(nn.Module):
    """Two linear layers with one weight, and a buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.register_buffer("table", torch.arange(3.0))
        self.register_buffer("same", self.table, persistent=False)
        self.one.bias.requires_grad_(False)


def test_every_name_of_every_tensor_is_found() -> None:
    module = Tied()
    named = state.named_tensors(module)
    assert list(named) == ["one.weight", "one.bias", "two.weight", "two.bias", "table", "same"]
    assert named["two.weight"] is module.one.weight and named["same"] is module.table
    assert list(state.named_tensors(nn.ReLU())) == []


def test_ties_name_the_first_of_the_names() -> None:
    module = Tied()
    assert state.ties(module) == {"two.weight": "one.weight", "same": "table"}
    assert state.tensor_names(module)[id(module.two.weight)] == "one.weight"
    assert state.ties(nn.Linear(2, 2)) == {}


@pytest.mark.parametrize(
    ("module", "dtype"),
    [
        (nn.Linear(2, 2, dtype=torch.bfloat16), torch.bfloat16),
        (nn.BatchNorm2d(2, affine=False), torch.float32),
        (nn.ReLU(), torch.float32),
    ],
    ids=["parameters", "buffers", "neither"],
)
def test_place_of_a_module(module: nn.Module, dtype: torch.dtype) -> None:
    assert state.place_of(module) == (torch.device("cpu"), dtype)


def test_integers_say_nothing_of_the_dtype() -> None:
    module = nn.Module()
    module.register_buffer("steps", torch.tensor([1]))
    module.register_buffer("table", torch.tensor([1.0], dtype=torch.float64))
    assert state.place_of(module)[1] is torch.float64


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ({0: [1]}, [[3, 4, 5]]),
        ({1: [2, 0]}, [[2, 0], [5, 3]]),
        ({0: [0], 1: [1]}, [[1]]),
        ({}, [[0, 1, 2], [3, 4, 5]]),
        ({0: []}, []),
    ],
    ids=["rows", "columns in another order", "both", "all", "none"],
)
def test_slices_are_copies(kept: dict[int, list[int]], expected: list[list[int]]) -> None:
    tensor = torch.arange(6).reshape(2, 3)
    found = state.sliced(tensor, {axis: np.array(indices, np.int64) for axis, indices in kept.items()})
    assert found.tolist() == expected
    found.fill_(9)
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_slices_of_parameters_leave_the_graph_of_gradients() -> None:
    assert not state.sliced(nn.Parameter(torch.zeros(2)), {0: np.array([0])}).requires_grad


@pytest.mark.parametrize("trained", [True, False])
def test_a_parameter_stays_a_parameter(trained: bool) -> None:
    found = state.copied(nn.Parameter(torch.zeros(2), requires_grad=trained), torch.ones(3))
    assert isinstance(found, nn.Parameter) and found.requires_grad == trained and found.shape == (3,)
    assert not isinstance(state.copied(torch.zeros(2), torch.ones(3)), nn.Parameter)


def test_tensors_are_replaced_under_all_their_names() -> None:
    module = Tied()
    weight, other = nn.Parameter(torch.zeros(3, 3)), module.two.bias
    state.replace_tensors(module, {id(module.one.weight): weight})
    assert module.one.weight is weight is module.two.weight
    assert module.two.bias is other


def test_clones_are_tied_as_before_and_share_nothing() -> None:
    module = Tied()
    before = dict(state.named_tensors(module))
    state.clone_tensors(module)
    after = state.named_tensors(module)
    assert state.ties(module) == {"two.weight": "one.weight", "same": "table"}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not {t.data_ptr() for t in before.values()} & {t.data_ptr() for t in after.values()}
    assert not module.one.bias.requires_grad and module.two.bias.requires_grad


def test_a_shallow_copy_holds_the_same_tensors_in_other_modules() -> None:
    module = Tied()
    found = state.shallow_copy(module)
    assert found.one is not module.one and found.one.weight is module.one.weight is found.two.weight
    found.one.weight = nn.Parameter(torch.zeros(3, 3))
    assert module.one.weight is module.two.weight


class Shared(nn.Module):
    """A module under two names, a tensor under three, an empty place, and buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.second = self.first[0]
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.first[0].weight
        self.empty = None
        self.register_module("missing", None)
        self.register_buffer("table", torch.zeros(2), persistent=False)
        self.scale = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize("once", [False, True], ids=["all names", "first names"])
def test_parts_and_tensors_have_the_names_that_torch_gives_them(once: bool) -> None:
    module = Shared()
    assert state.named_parts(module, once) == list(module.named_modules(remove_duplicate=once))
    expected = [*module.named_parameters(remove_duplicate=once), *module.named_buffers(remove_duplicate=once)]
    found = state.named_tensors(module, once)
    assert [(name, id(t)) for name, t in found.items()] == [(name, id(t)) for name, t in expected]


def test_modes_are_set_one_by_one() -> None:
    module = Shared()
    state.set_modes((part, name == "first") for name, part in state.named_parts(module))
    assert [name for name, part in module.named_modules() if part.training] == ["first"]
