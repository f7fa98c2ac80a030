"""The proofs see what is wrong: slim models with one fault each, and groups by hand."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis.cut import Cut
from fxprune.proofs.errors import relative_error
from fxprune.proofs.masked import masked_error
from fxprune.proofs.measure import count_macs
from fxprune.proofs.permutation import permutation_error
from fxprune.proofs.precision import in_enough_precision, precision_of, tolerance_of, widened
from fxprune.proofs.randomize import randomize
from fxprune.proofs.verify import check_rewrite

NAN, INF = float("nan"), float("inf")
X = torch.zeros(2, 3, 8, 8)


class Net(nn.Module):
    """Convolutions with batch norm and a residual, then a layer norm over channels that may go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.conv3 = nn.Conv2d(8, 12, 1)
        self.norm3 = nn.LayerNorm(12)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = x + self.conv2(x)
        found: Tensor = self.fc(self.norm3(self.conv3(x).mean((2, 3))).relu())
        return found


def pair(model: nn.Module | None = None, example: Tensor = X) -> tuple[Cut, nn.Module, Any]:
    """A cut of half of the channels, the model and the slim model, which may be spoilt."""
    model = randomize(Net() if model is None else model).eval()
    slim = fxprune.prune(model, 0.5, example, scope="layer", verify=False)
    analysis = fxprune.analyze(model, example)
    return analysis.cut(slim.meta["fxprune"].plan.gone(analysis.free)), model, slim


# -- masked equivalence ------------------------------------------------------------------------------------------------


def swap(tensor: Tensor, axis: int) -> None:
    """Two channels change places."""
    order = [1, 0, *range(2, tensor.shape[axis])]
    tensor.data = tensor.data.index_select(axis, torch.tensor(order))


def drop_bias(slim: Any) -> None:
    slim.conv1.bias = None


def set_eps(norm: Any) -> None:
    norm.eps *= 1e4


def set_slope(slim: Any) -> None:
    next(n for n in slim.graph.nodes if n.target == "relu").target = "sigmoid"
    slim.recompile()


FAULTS: dict[str, Callable[[Any], None]] = {
    "channels of a producer": lambda slim: swap(slim.conv1.weight, 0),
    "channels of a consumer": lambda slim: swap(slim.conv3.weight, 1),
    "channels of a depthwise layer": lambda slim: swap(slim.conv2.weight, 0),
    "channels of a statistic": lambda slim: swap(slim.norm1.running_var, 0),
    "channels of a norm over channels": lambda slim: swap(slim.norm3.weight, 0),
    "no bias": drop_bias,
    "eps of a batch norm": lambda slim: set_eps(slim.norm1),
    "one entry": lambda slim: slim.fc.weight.data[0, 0].mul_(1.01),
    "another function": set_slope,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_masked_equivalence_sees_a_wrong_slim_model(fault: str) -> None:
    cut, model, slim = pair()
    assert masked_error(cut, model, slim) < 1e-5
    FAULTS[fault](slim)
    assert masked_error(cut, model, slim) > 1e-3
    with pytest.raises(fxprune.NotEquivalent, match="a bug in fxprune"):
        check_rewrite(cut, model, slim)


def test_a_statistic_over_removed_channels_is_checked_with_the_settings_of_the_original() -> None:
    cut, model, slim = pair()
    set_eps(slim.norm3)
    assert masked_error(cut, model, slim) > 1e-3
    (group,) = [g for g in cut.analysis.free if not g.exact]
    assert any(m.name == "norm3.weight" for m in group.members)


def test_other_channels_than_the_plan_says_are_seen() -> None:
    cut, model, slim = pair()
    other = {name: np.setdiff1d(np.arange(cut.analysis.group(name).size), gone) for name, gone in cut.gone.items()}
    assert masked_error(cut.analysis.cut(other), model, slim) > 1e-3


# -- permutation invariance --------------------------------------------------------------------------------------------


def test_permutation_sees_a_group_without_one_of_its_members() -> None:
    _, model, _ = pair()
    analysis = fxprune.analyze(model, X)
    assert permutation_error(analysis, model) < 1e-5
    seen = 0
    for place, group in enumerate(analysis.groups):
        for number, member in enumerate(group.members if group.status == "free" else ()):
            members = group.members[:number] + group.members[number + 1 :]
            groups = [*analysis.groups]
            groups[place] = dataclasses.replace(group, members=members)
            wrong = dataclasses.replace(analysis, groups=groups)
            assert permutation_error(wrong, model) > 1e-3, f"{group.id} without {member.name} passes"
            seen += 1
    assert seen >= 10


def test_neither_proof_touches_the_models() -> None:
    cut, model, slim = pair()
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (model, slim)]
    model.train()
    for dtype in (None, torch.float64):
        permutation_error(cut.analysis, model, dtype=dtype)
        masked_error(cut, model, slim, dtype=dtype)
    assert model.training and model.norm1.training and not slim.training
    for module, state in zip((model, slim), before, strict=True):
        assert all(torch.equal(t, state[n]) and t.dtype == state[n].dtype for n, t in module.state_dict().items())


# -- costs -------------------------------------------------------------------------------------------------------------


def test_the_flop_counter_agrees_with_the_closed_form() -> None:
    cut, model, slim = pair()
    by_hand = 8 * 8 * (3 * 8 * 9 + 8 * 9 + 8 * 12) + 12 * 5
    assert count_macs(model, cut.analysis) == cut.analysis.macs() == by_hand
    assert count_macs(slim, cut.analysis) == cut.macs == 8 * 8 * (3 * 4 * 9 + 4 * 9 + 4 * 6) + 6 * 5


# -- precision ---------------------------------------------------------------------------------------------------------


class Cancels(nn.Module):
    """The difference of two sums that nearly cancel: float32 knows it to two digits, others for every number of terms."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(16, 512), nn.Linear(512, 8)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x).relu()
        x = x if self.dtype is None else x.to(self.dtype)
        high = self.out(x)
        found: Tensor = self.out(x * (1 + 1e-5)) - high
        return found


def test_rounding_is_told_from_a_fault_in_float64() -> None:
    cut, model, slim = pair(Cancels(), torch.zeros(4, 16))
    assert masked_error(cut, model, slim) > 1e-4  # in float32
    checks = check_rewrite(cut, model, slim)
    assert checks.passed and checks.tolerance == 1e-9 and checks.masked_error <= 1e-9
    verified = fxprune.verify(model, slim, latency=False)
    assert verified.passed and verified.tolerance == 1e-9


def test_a_model_that_names_float32_is_proved_in_float64_too() -> None:
    cut, model, slim = pair(Cancels(torch.float32), torch.zeros(4, 16))
    assert masked_error(cut, model, slim) > 1e-4
    assert masked_error(cut, model, slim, dtype=torch.float64) < 1e-9
    assert check_rewrite(cut, model, slim).tolerance == 1e-9


def test_half_precision_is_proved_in_float32() -> None:
    cut, model, slim = pair(Net().half(), X.half())
    assert next(slim.parameters()).dtype is torch.float16
    checks = check_rewrite(cut, model, slim)
    assert checks.tolerance == 1e-4 and checks.passed
    assert next(model.parameters()).dtype is torch.float16


def test_the_second_proof_runs_only_where_it_can_tell_more() -> None:
    asked: list[torch.dtype] = []

    def proof(*found: float | Exception) -> Callable[[torch.dtype], tuple[float, ...]]:
        answers = iter(found)

        def prove(dtype: torch.dtype) -> tuple[float, ...]:
            asked.append(dtype)
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return (answer,)

        return prove

    single, double = nn.Linear(2, 2), nn.Linear(2, 2).double()
    cases: list[tuple[nn.Module, tuple[Any, ...], tuple[tuple[float, ...], float], int]] = [
        (single, (1e-5,), ((1e-5,), 1e-4), 1),
        (single, (1e-3, 1e-12), ((1e-12,), 1e-9), 2),
        (single, (1e-3, 1e-3), ((1e-3,), 1e-9), 2),
        (single, (1e-3, RuntimeError("float32")), ((1e-3,), 1e-4), 2),
        (single, (INF, 0.0), ((0.0,), 1e-9), 2),
        (double, (1e-5,), ((1e-5,), 1e-9), 1),
    ]
    for model, answers, expected, runs in cases:
        asked.clear()
        assert in_enough_precision(proof(*answers), model) == expected
        assert asked == [precision_of(model), torch.float64][:runs]
    with pytest.raises(ZeroDivisionError):
        in_enough_precision(proof(1.0, ZeroDivisionError()), single)


def test_precision_follows_the_model() -> None:
    linear = nn.Linear(2, 2)
    for dtype, expected in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert precision_of(copy.deepcopy(linear).to(dtype)) is expected
    assert precision_of(nn.ReLU()) is torch.float32
    assert (tolerance_of(torch.float32), tolerance_of(torch.float64)) == (1e-4, 1e-9)
    assert widened(linear, torch.float64).weight.dtype is torch.float64 and linear.weight.dtype is torch.float32


# -- errors ------------------------------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[Any, Any, float]] = {
    "equal": ([1.0, 2.0], [1.0, 2.0], 0),
    "relative to the largest entry": ([1.0, 5.0], [1.0, 4.0], 0.25),
    "NaN in both": ([NAN, 5.0], [NAN, 4.0], 0.25),
    "NaN and infinity count as one": ([NAN, INF, 4.0], [INF, -INF, 4.0], 0),
    "nothing finite": ([NAN], [NAN], 0),
    "NaN in one": ([NAN, 1.0], [0.0, 1.0], INF),
    "NaN in the other": ([0.0, 1.0], [NAN, 1.0], INF),
    "another shape": ([1.0, 2.0], [[1.0, 2.0]], INF),
    "empty": ([], [], 0),
    "all zero": ([0.0], [0.0], 0),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_relative_error(kind: str) -> None:
    found, expected, error = ERRORS[kind]
    assert relative_error(torch.tensor(found), torch.tensor(expected)) == error
    nested = {"a": torch.ones(2), "b": (torch.tensor(found), None)}
    assert relative_error(nested, {"a": torch.ones(2), "b": (torch.tensor(expected), None)}) == error


def test_outputs_of_another_number_are_infinitely_far_apart() -> None:
    assert relative_error((X, X), (X,)) == INF
    assert relative_error((), ()) == 0
