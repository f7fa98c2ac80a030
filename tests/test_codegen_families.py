"""One class for modules that differ in optional parts or wrap different ones; functions as layers; choices of the mode."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.codegen import assert_equal_bits
from torch import nn

import fxprune
from fxprune.codegen.source_files import generated


class Merge(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(before, 2 * after), nn.Linear(2 * after, after)

    def forward(self, x: Any) -> Any:
        return self.b(self.a(x))


class Stage(nn.Module):
    def __init__(self, width: int, merge: nn.Module | None) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.merge = merge

    def forward(self, x: Any) -> Any:
        x = self.fc(x)
        return x if self.merge is None else self.merge(x)


def test_an_optional_part_with_numbers_of_its_own_is_handed_in() -> None:
    slim = fxprune.trace(nn.Sequential(Stage(4, Merge(4, 6)), Stage(6, Merge(6, 8)), Stage(8, None)), torch.randn(2, 4))
    source = generated(slim)[0]
    assert "def __init__(self, width: int, merge: nn.Module | None = None) -> None:" in source
    assert "self.merge = nn.Identity() if merge is None else merge" in source
    assert "Stage(4, merge=Merge(4, 12, 6))" in source and "Stage(8)" in source
    assert_equal_bits(slim, torch.randn(2, 4))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return x + self.inner(x)


class Wrapped(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Any) -> Any:
        return self.conv(x)


def test_what_wraps_one_part_is_a_class() -> None:
    inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    model = nn.Sequential(Residual(nn.Linear(4, 4)), Residual(inner), Wrapped(nn.Linear(4, 4)), Wrapped(nn.Linear(4, 3)))
    slim = fxprune.trace(model, torch.randn(2, 4))
    source = generated(slim)[0]
    joined = "".join(source.split())
    assert source.count("class Residual") == source.count("class Wrapped") == 1
    assert "Residual(nn.Linear(4,4))" in joined and "Residual(nn.Sequential(" in joined
    assert "Wrapped(4)" in source and "Wrapped(3)" in source and "OrderedDict" not in source
    assert_equal_bits(slim, torch.randn(2, 4))


class Norm(nn.Module):
    def __init__(self, kind: str, width: int = 4, bias: bool = True) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.randn(width))
        self.bias = nn.Parameter(torch.randn(width)) if bias else None

    def forward(self, x: Any) -> Any:
        if self.kind == "layer":
            return F.layer_norm(x, (4,), self.weight, self.bias, 1e-6)
        if self.kind == "group":
            return F.group_norm(x, 2, weight=self.weight, bias=self.bias)
        if self.kind == "rms":
            return F.rms_norm(x, (4,), self.weight)
        if self.kind == "twice":
            return F.layer_norm(x, (4,), self.weight, self.bias) * self.weight
        return F.layer_norm(x, (4,), self.weight * 2, self.bias)


@pytest.mark.parametrize(
    ("norm", "written"),
    [
        (Norm("layer"), "nn.LayerNorm(4, eps=1e-06)"),
        (Norm("layer", bias=False), "nn.LayerNorm(4, eps=1e-06, bias=False)"),
        (Norm("rms", bias=False), "nn.RMSNorm(4)"),
        (Norm("group"), "nn.GroupNorm(2, 4)"),
        (Norm("group", bias=False), "F.group_norm(x, 2, "),
        (Norm("twice"), "F.layer_norm(x, (4,), "),
        (Norm("changed"), "F.layer_norm(x, (4,), "),
    ],
    ids=["layer norm", "without bias", "rms norm", "group norm", "no such layer", "weight used twice", "weight changed"],
)
def test_functions_over_all_that_a_module_holds(norm: nn.Module, written: str) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 4), norm

        def forward(self, x: Any) -> Any:
            return self.norm(self.fc(x))

    slim = fxprune.trace(Normed(), torch.randn(2, 4))
    assert written in generated(slim)[0]
    assert_equal_bits(slim, torch.randn(2, 4))


class Moded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        x = self.fc(x)
        return x * 2 if self.training else x + 1


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.fc(x) + x


def test_a_choice_of_the_mode_stands_in_the_class_that_makes_it() -> None:
    slim = fxprune.trace(nn.Sequential(Moded(), Twice(), Moded()), torch.randn(2, 4))
    source = generated(slim)[0]
    own = source.split("class Moded")[1].split("\nclass ")[0]
    assert "if self.training:" in own and source.count("training:") == own.count("training:")
    assert "class Twice" in source
    assert_equal_bits(slim, torch.randn(2, 4))


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first

    def forward(self, x: Any) -> Any:
        return self.second(F.relu(self.first(x)))


def test_a_part_that_is_another_one_is_put_in_its_place() -> None:
    slim = fxprune.trace(Residual(Same()), torch.randn(2, 4))
    source = generated(slim)[0]
    assert "        self.second = self.first\n" in source and "# tied" not in source
    assert_equal_bits(slim, torch.randn(2, 4))


class Names(nn.Module):
    """Arguments that would hide a variable, a table or a helper."""

    def __init__(self, n: int, WIDTHS: int, attach: int, cut: int) -> None:
        super().__init__()
        self.parts = nn.Sequential(*[nn.Sequential(nn.Linear(n, WIDTHS + j), nn.Linear(WIDTHS + j, n)) for j in range(3)])
        self.one, self.two = nn.Linear(n, WIDTHS), nn.Linear(WIDTHS, attach)
        self.last = nn.Linear(attach, cut)

    def forward(self, x: Any) -> Any:
        return self.last(self.two(self.one(self.parts(x))))


def test_names_that_would_hide_others() -> None:
    slim = fxprune.trace(nn.Sequential(Names(4, 6, 5, 5), Names(5, 7, 6, 3)), torch.randn(2, 4))
    source = generated(slim)[0]
    assert "Written as one forward" not in source
    head = source.split("class Names")[1].split(") -> None")[0]
    assert "cut: int" in head and "n: int" not in head and "WIDTHS" not in head and "attach" not in head
    assert_equal_bits(slim, torch.randn(2, 4))


class Rectified(nn.Module):
    """Two optional parts, and one whose length differs from block to block."""

    def __init__(self, given: int, out: int, count: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(given, out, 1, bias=False) if given != out else None
        self.skipbn = nn.BatchNorm2d(out) if given != out else None
        sizes = [given, *range(out + 1, out + count), out]
        self.rep = nn.Sequential(*[layer for a, b in pairwise(sizes) for layer in (nn.ReLU(), nn.Conv2d(a, b, 1))])

    def forward(self, x: Any) -> Any:
        y = self.rep(x)
        if self.skip is not None and self.skipbn is not None:
            x = self.skipbn(self.skip(x))
        return y + x


@pytest.mark.parametrize(
    "blocks", [[(4, 6, 2), (6, 6, 3), (6, 8, 2), (8, 8, 3)], [(4, 4, 1), (4, 5, 2)], [(4, 6, 3), (6, 6, 1)]]
)
def test_several_optional_parts_with_widths_of_their_own_are_all_handed_in(blocks: list[tuple[int, int, int]]) -> None:
    slim = fxprune.trace(nn.Sequential(*[Rectified(*block) for block in blocks]).eval(), torch.randn(2, 4, 5, 5))
    source = generated(slim)[0]
    assert "Written as one forward" not in source and source.count("class Rectified") == 1
    assert_equal_bits(slim, torch.randn(2, 4, 5, 5))
