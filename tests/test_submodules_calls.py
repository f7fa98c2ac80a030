"""What passes between a submodule and the rest."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from helpers import assert_equivalent
from support.submodules import Caller, Maps, Options, X, detector, images
from torch import nn

import fxprune
from fxprune.proofs.randomize import randomize


class Containers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 12)
        self.b = nn.Linear(12, 4)

    def forward(self, maps: Any, named: Any, *more: Any, **options: Any) -> Any:
        x = maps.fine + maps.coarse[0] * maps.coarse[1] + sum(named.values()) + more[0] + options["last"]
        return Maps(self.b(self.a(x).relu()), [x])


CALLS = {
    "tensor alone": (Options, lambda m, x: m.part(x)),
    "optional tensor": (Options, lambda m, x: m.part(x, x)),
    "constants": (Options, lambda m, x: m.part(x, gain=3.0, skip=True)),
    "keywords": (Options, lambda m, x: m.part(skip=False, bias=x, x=x)),
    "called twice": (Options, lambda m, x: m.part(x) + m.part(x[:1, :5], gain=2.0).sum()),
    "no object": (Options, lambda m, x: m.part(x[:0]).sum() + m.part(x)),
    "containers": (
        Containers,
        lambda m, x: m.part(Maps(x, [x, 0.5]), OrderedDict(b=x, a=x), x, last=x).fine,
    ),
}


@pytest.mark.parametrize("kind", CALLS)
def test_arguments_of_every_kind(kind: str) -> None:
    part, call = CALLS[kind]
    original = randomize(Caller(part(), call))
    slim = fxprune.prune(original, 0.5, X, submodules="part")
    assert slim.part.a.out_features == 6
    assert_equivalent(original, slim, [X], slim.meta["fxprune"].plan.kept)
    fxprune.apply(original, fxprune.Plan.from_json(slim.meta["fxprune"].plan.to_json()))


def test_the_graph_refuses_other_constants_than_it_was_recorded_with() -> None:
    slim = fxprune.prune(Caller(Options(), lambda m, x: m.part(x)), 0.5, X, submodules="part")
    assert torch.equal(slim.part(X), slim.part(X, gain=2.0, skip=False))
    with pytest.raises(AssertionError, match="another value of gain"):
        slim.part(X, None, 3.0)
    with pytest.raises(AssertionError, match="another value of bias"):
        slim.part(X, X)
    listed = fxprune.prune(detector(), 0.5, images(), submodules="head")
    with pytest.raises(AssertionError, match="another value of maps"):
        listed.head([torch.randn(1, 8, 4, 4)] * 3)


def test_a_weight_that_two_submodules_share_stays_one() -> None:
    shared = Caller(Options(), lambda m, x: m.part(x) + m.twin(x) + m.alias(x), twin=Options(), alias=Options())
    shared.twin.a.weight = shared.part.a.weight
    shared.alias.a = shared.part.a
    original = randomize(shared)
    slim = fxprune.prune(original, 0.5, X, submodules=["part", "twin", "alias"])
    assert slim.twin.a.weight is slim.part.a.weight
    assert slim.alias.a.weight is slim.part.a.weight
    assert slim.part.a.out_features == 6
    assert_equivalent(original, slim, [X], slim.meta["fxprune"].plan.kept)
    assert fxprune.verify(original, slim, latency=False).passed


def test_one_submodule_under_two_names_stays_one() -> None:
    original = Caller(Options(), lambda m, x: m.part(x) + m.again[0](x), again=nn.ModuleList())
    original.again.append(original.part)
    slim = fxprune.prune(randomize(original), 0.5, X, submodules="part")
    assert slim.again[0] is slim.part
