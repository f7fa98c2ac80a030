"""Parts that join any number of tensors have one class, and a list that grows is a loop."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from support.codegen import assert_equal_bits
from torch import nn

import fxprune
from fxprune.codegen.source_files import generated


class Layer(nn.Module):
    def __init__(self, given: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(given), nn.Conv2d(given, growth, 3, padding=1)

    def forward(self, features: Any) -> Any:
        return self.conv(F.relu(self.norm(torch.cat(features, 1))))


class Dense(nn.ModuleDict):
    def __init__(self, count: int, given: int, growth: int) -> None:
        super().__init__({f"layer{i + 1}": Layer(given + i * growth, growth) for i in range(count)})

    def forward(self, x: Any) -> Any:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Dense(3, 4, 8), Dense(4, 28, 10)
        self.head = nn.Conv2d(68, 3, 1)

    def forward(self, x: Any) -> Any:
        return self.head(self.b(self.a(x)))


NET = """class Layer(nn.Module):
    def __init__(self, given: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(given)
        self.conv = nn.Conv2d(given, growth, 3, padding=1)

    def forward(self, features: list[torch.Tensor]) -> Any:
        x = torch.cat(features, 1)
        return self.conv(F.relu(self.norm(x)))


class Dense(nn.ModuleDict):
    def __init__(self, widths: list[tuple[int, int]]) -> None:
        super().__init__(
            {f"layer{i}": Layer(a, b) for i, (a, b) in enumerate(widths, 1)}
        )

    def forward(self, x: torch.Tensor) -> Any:
        features = [x]
        for layer in self.children():
            features.append(layer(features))
        return torch.cat(features, 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = Dense([(4, 6), (10, 6), (16, 6)])
        self.b = Dense([(22, 7), (29, 7), (36, 7), (43, 7)])
        self.head = nn.Conv2d(50, 3, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.b(self.a(x)))
"""


def classes_of(source: str) -> str:
    return source.split("from torch import nn\n")[1].split("def slim_")[0].strip()


def test_a_list_that_grows_is_a_loop() -> None:
    x = torch.randn(2, 4, 8, 8)
    slim = fxprune.prune(Net(), 0.25, x, scope="layer", verify=False)
    assert classes_of(generated(slim)[0]) == NET.strip()
    assert_equal_bits(slim, x)


class Listed(nn.Module):
    """The parts of a container grow a list that two others use; one class uses an entry of it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Entry(4 * (i + 1)) for i in range(3)])
        self.last = Entry(16)

    def forward(self, x: Any) -> Any:
        features = [x]
        for part in self.parts:
            features.append(part(features))
        return self.last(features) + torch.stack(features).sum(0)


class Entry(nn.Module):
    def __init__(self, given: int) -> None:
        super().__init__()
        self.fc = nn.Linear(given, 4)

    def forward(self, features: Any) -> Any:
        return self.fc(torch.cat(features, -1)) + features[0]


def test_several_uses_of_the_list() -> None:
    slim = fxprune.trace(Listed(), torch.randn(2, 4))
    source = generated(slim)[0]
    assert source.count("class Entry") == 1 and "for part in self.parts.children():" in source
    assert "+ features[0]" in source and "torch.stack(features)" in source
    assert_equal_bits(slim, torch.randn(2, 4))


class Short(nn.Module):
    """A part of the list is used alone: every call stays, and each takes a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(4 * (i + 1), 4) for i in range(3)])

    def forward(self, x: Any) -> Any:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1), features[2] * 2


class Sum(nn.Module):
    """Takes two tensors or three, which it does not put in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, *given: Any) -> Any:
        return self.fc(sum(given))


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Sum(), Sum()

    def forward(self, x: Any) -> Any:
        y = self.a(x, x * 2)
        return self.b(x, y, x + 1)


class Joint(nn.Module):
    """Always two: they stay two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Layer(8, 4), Layer(8, 4)

    def forward(self, x: Any) -> Any:
        y = self.a([x, x * 2])
        return self.b((y, x))


def test_what_is_no_growing_list() -> None:
    x = torch.randn(2, 4, 8, 8)
    slim = fxprune.trace(Short(), x)
    source = generated(slim)[0]
    assert ".append(" not in source and "self.layers[1]([x, y])" in source and source.count("class Layer") == 1
    assert_equal_bits(slim, x)
    slim = fxprune.trace(Sums(), torch.randn(2, 4))
    assert "list[" not in generated(slim)[0]
    assert_equal_bits(slim, torch.randn(2, 4))
    slim = fxprune.trace(Joint(), x)
    assert "def forward(self, x: torch.Tensor, y: torch.Tensor)" in generated(slim)[0]
    assert_equal_bits(slim, x)
