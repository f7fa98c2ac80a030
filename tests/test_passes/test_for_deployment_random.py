"""The passes of the stage "deployment" on random networks: each alone and all in a row leave the outputs what they were."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxprune
from fxprune.passes import pass_of
from fxprune.passes.registry import pipeline
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize

NAMES = [step.name for step in pipeline("deployment")]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


class Constant(nn.Module):
    """A factor or summand: one entry a channel, one entry, or one a place, which no layer can take in."""

    def __init__(self, shape: tuple[int, ...], sums: bool) -> None:
        super().__init__()
        self.value, self.sums = nn.Parameter(torch.ones(shape)), sums

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value if self.sums else x * self.value


class Residual(nn.Module):
    """Something else reads what goes into the layers."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Modal(nn.Module):
    """Other code in training, and a dropout that asks for the mode."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rand_like(x) if self.training else x
        return F.dropout(x, 0.3, self.training)


class Twice(nn.Module):
    """A layer that is called twice, so that nothing can be merged into it."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) + self.layer(x.relu())


def images(draw: random.Random, c: int, deep: bool = True) -> tuple[list[nn.Module], int]:
    """Some layers that keep the size of images, and the channels after them."""
    layers: list[nn.Module] = []
    for _ in range(draw.randint(3, 6)):
        kind, out, bias = draw.randrange(9), draw.choice([2, 4, 6]), draw.random() < 0.5
        groups = draw.choice([g for g in (1, 2) if c % g == 0])
        mode = draw.choice(["zeros", "reflect"])
        if kind < 2:
            layers.append(nn.Conv2d(c, out, 3, padding=1, groups=groups, bias=bias, padding_mode=mode))
        elif kind == 2:
            layers.append(nn.ConvTranspose2d(c, out, 3, padding=1, groups=groups, bias=bias))
        elif kind == 3:
            layers += [nn.Conv2d(c, 8, 3, padding=1, bias=bias), nn.Conv2d(8, out, 1, bias=not bias)]
        elif kind == 4:
            shape = draw.choice([(c, 1, 1), (1, c, 1, 1), (1,), (5, 5), (1, 1, 5)])
            layers += [nn.Conv2d(c, c, 1, bias=bias), Constant(shape, draw.random() < 0.5)]
        elif kind == 5:
            layers += [nn.Identity(), nn.Dropout2d(0.2), Modal()]
        elif kind == 6 and deep:
            inner, width = images(draw, c, deep=False)
            layers.append(Residual([*inner, nn.Conv2d(width, c, 1)]))
        elif kind == 7:
            layers.append(Twice(nn.Conv2d(c, c, 3, padding=1, bias=bias), nn.BatchNorm2d(c)))
        else:
            layers.append(nn.ReLU())
        c = out if kind < 4 else c
        if draw.random() < 0.7:
            layers.append(nn.BatchNorm2d(c, affine=draw.random() < 0.7, eps=draw.choice([1e-5, 1e-3])))
    return layers, c


def network(number: int) -> nn.Module:
    draw = random.Random(number)
    layers, c = images(draw, 3)
    head: list[nn.Module] = [nn.Linear(c, 6, bias=draw.random() < 0.5), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 4)]
    head += [nn.Linear(4, 2), Constant((2,), draw.random() < 0.5)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


class _Shapes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta["shape"] = tuple(value.shape)
        return value


def prepared(number: int, dtype: torch.dtype) -> fx.GraphModule:
    """A recorded network in evaluation, after the pass that always runs, with the shapes of its values."""
    torch.manual_seed(number)
    module = fxprune.trace(randomize(network(number), number), torch.zeros(2, 3, 5, 5)).to(dtype).eval()
    pass_of("keep-evaluation").run(module, None)
    _Shapes(module).run(torch.zeros(2, 3, 5, 5, dtype=dtype))
    return module


def changes(number: int, dtype: torch.dtype) -> Counter[str]:
    """Compare one network before and after each pass; which passes changed something."""
    module, found = prepared(number, dtype), Counter[str]()
    x = torch.randn(3, 3, 5, 5, dtype=dtype, generator=torch.Generator().manual_seed(number))
    with torch.no_grad():
        expected = module(x)
        for names in (*([name] for name in NAMES[1:]), NAMES[1:]):
            made = copy.deepcopy(module)
            for name in names:
                if pass_of(name).run(made, None).modified:
                    found[name] += 1
            made.graph.lint()
            made.recompile()
            error = relative_error(made(x), expected)
            assert error <= TOLERANCE[dtype], f"network {number}, {names}: {error:.1e}"
            assert len(made.graph.nodes) <= len(module.graph.nodes)
    return found


def test_outputs_stay_on_random_networks() -> None:
    found = Counter[str]()
    for number in (0, 1, 2, 3):
        found += changes(number, torch.float32 if number % 2 else torch.float64)
    assert {*found} == {*NAMES[1:]}, "each pass had something to do"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_outputs_stay_on_many_random_networks(dtype: torch.dtype) -> None:
    found = Counter[str]()
    for number in range(100, 250):
        found += changes(number, dtype)
    assert min(found[name] for name in NAMES[1:]) > 20


def test_the_comparison_finds_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shift that forgets the mean is found on the first networks."""
    from fxprune.passes import fold_norms

    right = fold_norms.scaled
    monkeypatch.setattr(fold_norms, "scaled", lambda layer, scale, shift: right(layer, scale, shift * 0.999))
    with pytest.raises(AssertionError, match="fold-norms"):
        for number in range(4):
            changes(number, torch.float64)
