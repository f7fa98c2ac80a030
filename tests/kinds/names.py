"""Names of parts, parameters and buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, rows

__all__ = ["CASES", "InDict", "Own"]


class InDict(nn.Module):
    """Layers under names of the user."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(8, 8) for name in names})
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        for part in self.parts.values():
            x = part(x).relu()
        return self.b(x)


class Own(nn.Module):
    """Parameters, buffers and layers of its own under names of the user."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.randn(16)))
            self.register_buffer(f"{name}b", torch.randn(16))
            self.add_module(f"{name}m", nn.Linear(16, 16))
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        for name in self.names:
            x = self._modules[f"{name}m"](x * getattr(self, name) + getattr(self, f"{name}b")).relu()  # type: ignore[misc]
        return self.b(x)


class Taken(nn.Module):
    """A part whose name a GraphModule needs."""

    def __init__(self) -> None:
        super().__init__()
        self.graph, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.graph(x))


class Constant(nn.Module):
    """A buffer named as the recorder names its constants, and constants of each mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.register_buffer("_constant0", torch.full((4,), 5.0))
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(x)) + self._constant0 * torch.tensor([1.0, 2.0, 3.0, 4.0])
        return y * torch.tensor([0.5, 1.0, 0.5, 1.0]) if self.training else y + torch.tensor([3.0, 3.0, 1.0, 1.0])


def _both(label: str, names: list[str], refused: str = "") -> list[Case]:
    makers: list[tuple[str, Callable[[list[str]], Any]]] = [("in a dict", InDict), ("own", Own)]
    return [Case(f"{label}, {where}", lambda kind=kind: kind(names), rows, refused) for where, kind in makers]


CASES = [
    *_both("keywords", ["class", "None", "lambda"]),
    *_both("self", ["self"]),
    *_both("spaces", ["with space", " "]),
    *_both("single quotes", ["it's"]),
    *_both("unicode", ["ünï", "é", "e\u0301", "ﬁ", "变量"]),
    *_both("digits", ["0", "1x", "-1"]),
    *_both("very long", ["x" * 300]),
    *_both("names of Python", ["print", "torch", "nn", "F", "super", "__x", "_"]),
    *_both("signs", ["{x}", "a#b", "a=b", "a\tb", "$", "%s"]),
    *_both("double quotes", ['say "x"'], refused="a part named"),
    *_both("line breaks", ["a\nb"], refused="a part named"),
    *_both("backslashes", ["a\\"], refused="a part named"),
    *_both("code", ['")+print("run")+("'], refused="a part named"),
    Case("name of a GraphModule", Taken, rows, refused="a part named 'graph', a name that torch.fx.GraphModule uses"),
    Case("the recorder's own names", Constant, rows),
]
