"""Repair beside a residual sum: a layer makes up for the error of what it is added to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_repair import found_of
from torch import Tensor, nn

import fxprune
from fxprune.recovery.repair.chunks import chunks_of
from fxprune.recovery.repair.layers import Layer
from fxprune.recovery.repair.pair import Pair
from fxprune.recovery.repair.repairing import Repairing, Settings
from fxprune.recovery.repair.tails import Tail, tail_of

torch.set_num_threads(1)


class Branches(nn.Module):
    """Two branches and a sum: of the first so much goes that it cannot be made up for there, the second could do all alone."""

    def __init__(self, norm: bool, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5))
        self.b = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 5), nn.BatchNorm1d(5) if norm else nn.Identity(), nn.Dropout())
        self.join = join
        if norm:
            found: Any = self.b[2]
            found.running_mean.copy_(torch.randn(5)), found.running_var.copy_(torch.rand(5) + 0.5)
            found.weight.data, found.bias.data = torch.rand(5) - 2, torch.randn(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.a(x), self.b(x))


def slim_and_error(model: nn.Module, x: Tensor, **options: Any) -> tuple[Any, float]:
    plan = fxprune.plan(model, {"a.0": 0.75, "b.0": 0.125}, x[:2], scope="layer")
    fixed = fxprune.repair(fxprune.apply(model, plan), model, x[:-50], **options)
    with torch.no_grad():
        return fixed, float((fixed(x[-50:]) - model(x[-50:])).norm() / model(x[-50:]).norm())


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("join", [torch.add, lambda a, b: b + a, lambda a, b: b.add_(a)])
def test_what_one_branch_lost_the_other_makes_up_for(join: Callable[[Tensor, Tensor], Tensor], norm: bool) -> None:
    torch.manual_seed(0)
    model, x = Branches(norm, join).eval(), torch.randn(300, 6)
    fixed, error = slim_and_error(model, x, ridge=1e-10, norms="keep")
    assert error < 1e-4
    assert {s.name for s in found_of(fixed).repaired} == {"a.1", "b.1"}


def test_without_it_the_error_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = Branches(False, torch.add).eval(), torch.randn(300, 6)
    monkeypatch.setattr("fxprune.recovery.repair.repairing.tail_of", lambda *_: Tail())
    assert slim_and_error(model, x, ridge=1e-10)[1] > 0.2


@pytest.mark.parametrize("join", [lambda a, b: a - b, lambda a, b: torch.add(a, b, alpha=2), lambda a, b: a * b])
def test_other_sums_are_left_alone(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Branches(False, join).eval(), torch.randn(100, 6)
    slim = fxprune.prune(model, {"a.0": 0.5, "b.0": 0.25}, x[:2], scope="layer")
    assert streams(slim, model, x) == {}


class Blocks(nn.Module):
    """Shortcuts that run after what they are added to: padded, through a convolution, through one in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one, self.two, self.three = (
            nn.Sequential(
                nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4)
            )
            for _ in range(3)
        )
        self.side, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (self.one(x) + nn.functional.pad(x[:, 1:], (0, 0, 0, 0, 1, 0))).relu()
        x = (self.two(x) + self.side(x)).relu()
        return self.last(self.three(x) + x.relu_())


def streams(slim: Any, model: nn.Module, x: Tensor) -> dict[str, tuple[str, str]]:
    work = Repairing(pair := Pair.of(slim, model), Settings())
    work.read(chunks_of(x, ["x"], pair.device))
    found = {s.name: tail_of(pair.dense, pair.slim, work._names, s.node) for s in work.sites if isinstance(s, Layer)}
    return {name: stream.other for name, stream in found.items() if stream.other is not None}


def test_a_shortcut_counts_once_it_is_settled() -> None:
    """One of the two operands of a sum is: the last that has weights; and nothing runs early that writes in place."""
    torch.manual_seed(0)
    model, x = Blocks().eval(), torch.randn(60, 3, 6, 6)
    slim = fxprune.prune(model, 0.4, x[:2], scope="layer")
    assert streams(slim, model, x) == {"one.3": ("pad", "pad"), "side": ("two_4", "two_4")}
    found = found_of(fxprune.repair(slim, model, x))
    assert found.after < found.before and "side" in {s.name for s in found.repaired}


class Chain(nn.Module):
    """A stream to which blocks add without a rectifier behind: where one went, the sums before and after it have one name."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for block in self.blocks:
            x = x + block(x)
        return self.end(x)


def test_the_stream_is_that_of_the_same_sum_where_a_branch_went() -> None:
    torch.manual_seed(0)
    model, x = Chain().eval(), torch.randn(400, 6)
    half = {f"blocks.{number}.0": 0.25 for number in range(4)}
    plan = fxprune.revise(model, fxprune.plan(model, half, x[:2], scope="layer"), {"blocks.1": False, "blocks.2": False})
    slim = fxprune.apply(model, plan)
    found = streams(slim, model, x)
    assert found["blocks.3.2"] == ("add_2", "add")
    assert found["blocks.0.2"] == ("start", "start")
    fixed = fxprune.repair(slim, model, x[:300])
    with torch.no_grad():
        before, after = (float((made(x[300:]) - model(x[300:])).square().sum()) for made in (slim, fixed))
    assert after < 0.5 * before
