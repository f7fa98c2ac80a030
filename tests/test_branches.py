"""Residual branches: which operand of a sum may go, what goes with it, and what prevents it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis.branches import Branch

X = torch.randn(2, 4, 6, 6)


class Net(nn.Module):
    """A stem of 4 channels, a body that a test gives, a head."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.stem, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.norm, self.wide = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.drop = nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        y = self.body(self, self.stem(x))
        return (self.head(y[0]), *y[1:]) if isinstance(y, tuple) else self.head(y)


def branches(body: Callable[[Any, Tensor], Any]) -> dict[str, Branch]:
    return fxprune.analyze(Net(body).eval(), X).branches.all


def found(body: Callable[[Any, Tensor], Any]) -> dict[str, tuple[list[str], str]]:
    """Branch -> the layers that go with it, and why it may not go."""
    return {n: (sorted({t.rpartition(".")[0] or t for t in b.tensors}), b.reason) for n, b in branches(body).items()}


def _drop_path(m: Any, x: Tensor) -> Tensor:
    if not m.training:
        return x
    return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.8)


def _in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y += x
    return y.relu_()


GO: dict[str, tuple[Callable[[Any, Tensor], Any], dict[str, list[str]]]] = {
    "x + f(x)": (lambda m, x: x + m.a(x), {"a": ["a"]}),
    "f(x) + x": (lambda m, x: m.a(x) + x, {"a": ["a"]}),
    "x - f(x)": (lambda m, x: x - m.a(x), {"a": ["a"]}),
    "two layers": (lambda m, x: x + m.b(m.a(x).relu()), {"add": ["a", "b"]}),
    "a rectifier after the sum": (lambda m, x: (x + m.a(x)).relu(), {"a": ["a"]}),
    "scaled": (lambda m, x: x + m.scale * m.a(x), {"a": ["a", "scale"]}),
    "torch.add with alpha": (lambda m, x: torch.add(x, m.a(x), alpha=2), {"a": ["a"]}),
    "in place": (_in_place, {"a": ["a"]}),
    "into x": (lambda m, x: x.add_(m.a(x)), {"a": ["a"]}),
    "drop path": (lambda m, x: x + _drop_path(m, m.a(x)), {"a": ["a"]}),
    "dropout": (lambda m, x: x + m.drop(m.a(x)), {"a": ["a"]}),
    "a norm of its own": (lambda m, x: x + m.norm(m.a(x)), {"a": ["a", "norm"]}),
    "by a projection": (lambda m, x: m.wide(x) + m.b(m.a(x)), {"add": ["a", "b"]}),
    "the shorter way stays": (lambda m, x: m.b(m.a(x)) + m.wide(x), {"add": ["a", "b"]}),
    "broadcast": (lambda m, x: x + m.a(x).mean((2, 3), keepdim=True), {"a": ["a"]}),
    "parallel": (lambda m, x: x + m.a(x) + m.b(x), {"a": ["a"], "b": ["b"]}),
    "a common norm stays": (lambda m, x: x + m.a(n := m.norm(x)) + m.b(n), {"a": ["a"], "b": ["b"]}),
    "nested": (lambda m, x: x + _inner(m, x), {"b": ["b"], "add_1": ["a", "b", "c"]}),
    "a layer used twice": (lambda m, x: x + m.b(m.a(m.a(x))), {"add": ["a", "b"]}),
    "a layer that runs elsewhere, too": (lambda m, x: m.a(x + m.a(x)), {"a": []}),
    "its size is asserted": (lambda m, x: x + _asserted(m.a(x)), {"a": ["a"]}),
}


def _inner(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.c(y + m.b(y))


def _asserted(y: Tensor) -> Tensor:
    torch._assert(y.shape[2] == 6, "6 rows")
    return y


@pytest.mark.parametrize("name", GO)
def test_these_may_go(name: str) -> None:
    body, expected = GO[name]
    assert found(body) == {branch: (layers, "") for branch, layers in expected.items()}


def _counting(m: Any, x: Tensor) -> Tensor:
    m.seen.add_(1.0)
    return m.a(x)


def _writing(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    z = y[:, :2]
    z += 1
    return (x + y) * z.mean()


STAY: dict[str, tuple[Callable[[Any, Tensor], Any], str, str]] = {
    "read elsewhere": (lambda m, x: m.b(y := m.a(x)) * (x + y), "a", "its result is read by b, too"),
    "an output, too": (lambda m, x: (x + (y := m.a(x)), y), "a", "its result is part of the output"),
    "random in evaluation": (lambda m, x: x + m.a(x) * torch.rand(4, 1, 1), "a", "rand draws random numbers in evaluation"),
    "a norm that runs elsewhere": (
        lambda m, x: m.norm(x + m.norm(m.a(x))),
        "a",
        "in training it updates norm.running_mean, which is read elsewhere, too",
    ),
    "without gradients": (lambda m, x: _detached(m, x), "a", "it is added in another context"),
}


def _detached(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    with torch.no_grad():
        return x + y


@pytest.mark.parametrize("name", STAY)
def test_these_stay_for_a_reason(name: str) -> None:
    body, branch, reason = STAY[name]
    known = branches(body)
    assert reason in known[branch].reason
    with pytest.raises(fxprune.InputError, match=f"the branch '{branch}' cannot go"):
        fxprune.analyze(Net(body).eval(), X).cut({branch: [0]})


NONE: dict[str, Callable[[Any, Tensor], Any]] = {
    "no layer": lambda m, x: x + x.relu(),
    "a table": lambda m, x: m.a(x + m.scale),
    "as long either way": lambda m, x: m.a(x) + m.b(x),
    "wider than x": lambda m, x: x.mean(1, keepdim=True) + m.a(x),
    "scaled x": lambda m, x: torch.add(m.a(x), x, alpha=2),
    "minus x": lambda m, x: m.a(x) - x,
    "a product": lambda m, x: x * m.a(x),
    "a concatenation": lambda m, x: torch.cat([x, m.a(x)], 1)[:, :4],
    "in another dtype": lambda m, x: (x + m.a(x).double()).float(),
}


@pytest.mark.parametrize("name", NONE)
def test_these_are_no_branches(name: str) -> None:
    assert found(NONE[name]) == {}


def test_a_counter_goes_on_counting() -> None:
    """What writes into a buffer stays, and the layers that it does not read go."""
    known = branches(lambda m, x: x + _counting(m, x))
    assert not known["a"].reason and not any("add_" in node for node in known["a"].nodes)


def test_ignored_layers_stay() -> None:
    known = fxprune.analyze(Net(lambda m, x: x + m.a(x)), X, ignore=["a"]).branches.all
    assert known["a"].reason == "ignore='a'"


def test_unknown_branches_are_named() -> None:
    analysis = fxprune.analyze(Net(lambda m, x: x + m.a(x)), X)
    with pytest.raises(fxprune.InputError, match=r"there is no branch or group 'aa' that may go.*'a'"):
        analysis.cut({"aa": [0]})
