"""Recordings and slim models go through pickle wherever the user's own model does, whatever functions they call."""

from __future__ import annotations

import operator
import pickle
import re
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

import pytest
import torch
from support.codegen import run_once
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.codegen.roundtrip import same_result
from fxprune.tracing.graphs.pickled import _target
from fxprune.tracing.values.whole import is_whole
from tests.kinds import ALL, sampled
from tests.kinds.base import Case

OPERATORS = [torch.ops.aten.relu.default, torch.ops.aten.relu, torch.ops.aten.add.Tensor, torch.ops.aten.max_pool2d]


class Net(nn.Module):
    """A layer, a function of users' choice, and a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2) + F.adaptive_max_pool2d(x, 1)


def positive(x: Tensor) -> Tensor:
    return torch.ops.aten.relu.default(x) + torch.ops.aten.relu(x)


@pytest.mark.parametrize("function", [pool, positive])
def test_a_slim_model_comes_back(function: Callable[[Tensor], Tensor]) -> None:
    slim = fxprune.prune(Net(function).eval(), 0.5, torch.zeros(1, 3, 8, 8))
    again = pickle.loads(pickle.dumps(slim))
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(again(x), slim(x)) and again.meta["fxprune"].plan.macs == slim.meta["fxprune"].plan.macs


@pytest.mark.parametrize("module", [F, torch, torch.linalg, torch.special, torch.fft, operator], ids=lambda m: m.__name__)
def test_functions_come_back_as_themselves(module: Any) -> None:
    functions = [f for f in vars(module).values() if isinstance(f, (BuiltinFunctionType, FunctionType))]
    functions = [f for f in functions if f is not torch.manual_seed]  # which torch._dynamo wraps
    functions = [f for f in functions if type(getattr(f, "__self__", None)).__name__ != "PyCapsule"]  # PyTorch's own, till 2.6
    assert len(functions) > 10
    refused = [f.__name__ for f in functions if pickle.loads(pickle.dumps(_target(f))) != f]
    assert not refused


@pytest.mark.parametrize("target", OPERATORS, ids=str)
def test_operators_come_back_as_themselves(target: Any) -> None:
    assert pickle.loads(pickle.dumps(_target(target))) is target


def test_what_only_the_model_holds_is_refused_by_pickle() -> None:
    hidden = [lambda x: x * 2][0]
    assert _target(hidden) is hidden
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(_target(hidden))


@pytest.mark.parametrize(("kind", "case"), sampled([pytest.param(k, c, id=f"{k}: {c.name}") for k, c in ALL], 40))
def test_recordings_come_back(kind: str, case: Case) -> None:
    try:
        recorded = fxprune.trace(case.make(), case.inputs(2))
    except fxprune.PruneError as error:
        pytest.skip(f"refused: {error}")
    again = pickle.loads(pickle.dumps(recorded))
    assert sum(map(is_whole, again.graph.nodes)) == sum(map(is_whole, recorded.graph.nodes))
    inputs = case.inputs(2)
    try:
        expected = run_once(recorded.eval(), inputs)
    except fxprune.PruneError as error:  # of one mode, and of training
        with pytest.raises(fxprune.PruneError, match=re.escape(str(error))):
            run_once(again.eval(), inputs)
        return
    found = run_once(again.eval(), inputs)
    assert len(expected) == len(found) and all(map(same_result, expected, found))


@pytest.mark.parametrize("case", [c for k, c in ALL if k == "whole_nodes"][:4], ids=lambda c: c.name)
def test_calls_that_are_kept_whole_come_back(case: Case) -> None:
    test_recordings_come_back("whole_nodes", case)
