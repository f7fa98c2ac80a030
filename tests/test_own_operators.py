"""A user's own operators: rules from outside the package, by ``namespace::name``, before and after they were met."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

import pytest
import torch
from support.operators import operators_put_back
from torch import Tensor, nn

import fxprune
from fxprune.labels import table

X = torch.zeros(2, 3, 8, 8)


@pytest.fixture(autouse=True)
def rules() -> Iterator[None]:
    with operators_put_back():
        yield


@torch.library.custom_op("fxprune_tests::swish", mutates_args=())
def swish(x: Tensor) -> Tensor:
    return x * x.sigmoid()


@swish.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("fxprune_tests::split", mutates_args=())
def split(x: Tensor, size: int) -> Tensor:
    """The first entries of axis 1: an operator that shares its name with one of torch, and names a channel size."""
    return x[:, :size].clone()


@split.register_fake
def _(x: Tensor, size: int) -> Tensor:
    return x.new_empty(x.shape[0], size, *x.shape[2:])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(swish(self.first(x)))


class Parted(Net):
    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.size, self.second = size, nn.Conv2d(size, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.ops.fxprune_tests.split(self.first(x), self.size))


def elementwise(call: fxprune.labels.call.Call) -> None:
    """swish: [a, b] -> [a, b]"""
    call.set(call.axes(call["x"]))


def first_entries(call: fxprune.labels.call.Call) -> None:
    """split: [n, a] -> [n, a[:size]]"""
    axes = list(call.axes(call["x"]))
    axes[1] = axes[1][: call["size"]]
    call.set(axes)


def status(model: nn.Module) -> str:
    return fxprune.why(model, "first", X).status


def test_an_operator_without_a_rule_freezes_what_touches_it() -> None:
    answer = fxprune.why(Net(), "first", X)
    assert answer.status == "frozen"
    assert "no rule knows the operator fxprune_tests.swish" in str(answer)


def test_a_rule_makes_its_channels_free_and_the_result_is_right() -> None:
    fxprune.rule("fxprune_tests::swish")(elementwise)
    model = Net().eval()
    slim = fxprune.prune(model, 0.5, X)
    assert slim.first.out_channels < 8
    assert fxprune.verify(model, slim, latency=False).passed


def test_a_rule_counts_even_after_its_operator_was_met() -> None:
    assert status(Net()) == "frozen"
    fxprune.rule("fxprune_tests::swish")(elementwise)
    assert status(Net()) == "free"


def test_a_definition_that_is_run_again_replaces_itself() -> None:
    fxprune.rule("fxprune_tests::swish")(elementwise)
    fxprune.rule("fxprune_tests::swish")(elementwise)
    assert status(Net()) == "free"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("linear", "two definitions of the rule of 'aten::linear'"),
        ("aten::cat", "two definitions of the rule of 'aten::cat'"),
        ("::swish", "namespace::name"),
        ("mylib::", "namespace::name"),
    ],
)
def test_a_rule_is_refused(name: str, message: str) -> None:
    with pytest.raises(fxprune.InputError, match=message):
        fxprune.rule(name)(elementwise)


def test_an_operator_is_not_taken_for_one_of_torch_with_its_name() -> None:
    """Its size argument is not that of `torch.split`: without a repair the group stays whole, and the report says why."""
    fxprune.rule("fxprune_tests::split")(first_entries)
    model = Parted().eval()
    slim = fxprune.prune(model, 0.5, X, scope="layer")
    assert list(slim.meta["fxprune"].frozen_by_rewrite) == ["first.weight"]
    assert "has shape (2, 6, 6, 6) where (2, 3, 6, 6) is predicted" in str(fxprune.why(slim, "first"))
    # The two channels that no one reads are another group, which could go.
    assert (slim.first.out_channels, slim.second.in_channels) == (7, 6)
    assert fxprune.verify(model, slim, latency=False).passed


def test_nothing_is_left_to_prune_where_every_group_is_refused() -> None:
    fxprune.rule("fxprune_tests::split")(first_entries)
    with pytest.raises(fxprune.NothingToPrune, match=r"first\.weight: node split.* is predicted"):
        fxprune.prune(Parted(size=8), 0.5, X)


def test_a_repair_says_how_an_operator_names_channel_sizes() -> None:
    from fxprune.passes.arguments import Site, repair

    fxprune.rule("fxprune_tests::split")(first_entries)

    @repair("fxprune_tests::split")
    def resize(site: Site) -> int:
        return site.put(1, "size", site.cut.size(site.outputs[1]))

    torch.manual_seed(0)
    model = Parted().eval()
    slim = fxprune.prune(model, 0.5, X, scope="layer")
    assert slim.second.in_channels == 3
    assert fxprune.verify(model, slim, latency=False).passed


def test_every_rule_of_the_package_shows_its_shapes_first() -> None:
    for family in table.FAMILIES:
        importlib.import_module(f"fxprune.rules.{family}")
    for key, entry in table._OPERATORS.items():
        if entry.rule is not None and entry.rule.__module__.startswith("fxprune.rules"):
            first = (inspect.getdoc(entry.rule) or "").splitlines()[0]
            assert "->" in first and ": " in first, f"the rule of {key} begins with {first!r}"
