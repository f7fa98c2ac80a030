"""Constants of forward that are equal are one, parts take tensors that are not theirs, and a loop may go over some parts."""

from __future__ import annotations

import ast
from typing import Any

import pytest
import torch
from support.codegen import assert_equal_bits
from torch import nn

import fxprune
from fxprune.codegen.source_files import generated
from fxprune.codegen.structured.asserted import SAME, say_conditions
from fxprune.codegen.structured.constants import equal_constants


class Added(nn.Module):
    def __init__(self, second: float = 2.0, changes: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.second, self.changes = second, changes

    def forward(self, x: Any) -> Any:
        table = torch.tensor([1.0, self.second, 3.0, 4.0])
        if self.changes:
            table += x.mean()
        return self.fc(x) + table


class Stack(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(parts)

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return x


def test_equal_constants_are_one_and_part_of_a_container_is_a_loop() -> None:
    slim = fxprune.trace(Stack(Added(), Added(), Added(), Added(5.0), nn.Linear(4, 4)), torch.randn(2, 4))
    assert equal_constants(slim) == {"_constant1": "_constant0", "_constant2": "_constant0"}
    source = generated(slim)[0]
    assert source.count("class Added") == 1 and "def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:" in source
    assert "for block in self.blocks[:3]:\n            x = block(x, self._constant0)" in source
    assert "self.blocks[3](x, self._constant3)" in source and "_constant1" not in source
    assert_equal_bits(slim, torch.randn(2, 4))


def test_constants_that_forward_changes() -> None:
    slim = fxprune.trace(Stack(Added(changes=True), Added(changes=True), Added()), torch.randn(2, 4))
    assert_equal_bits(slim, torch.randn(2, 4))


def test_a_constant_that_changes_is_told_from_an_equal_one() -> None:
    module = fxprune.trace(Stack(Added(), Added()), torch.randn(2, 4))
    first = next(node for node in module.graph.nodes if node.target == "_constant0")
    with module.graph.inserting_after(first):
        changed = module.graph.call_method("add_", (first, 1.0))
    changed.meta.update(first.meta, scope="", source="")
    module.recompile()
    source = generated(module)[0]
    assert "Written as one forward" in source, "the second call would see what the first did to the only constant"
    assert_equal_bits(module, torch.randn(2, 4))


class Borrowing(nn.Module):
    """Two parts that use a parameter of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.randn(4))
        self.blocks = nn.ModuleList([Borrower(self), Borrower(self)])

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return x


class Borrower(nn.Module):
    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.owner = [owner]
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.fc(x) * self.owner[0].shared


def test_a_tensor_that_lies_elsewhere_is_handed_in() -> None:
    slim = fxprune.trace(Borrowing(), torch.randn(2, 4))
    source = generated(slim)[0]
    assert source.count("class Borrower") == 1 and "x = block(x, self.shared)" in source
    assert_equal_bits(slim, torch.randn(2, 4))


def test_what_recording_asserts_names_no_nodes() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return self.fc(x) if x.shape[1] > 3 else x

    source = generated(fxprune.trace(Sized(), torch.randn(2, 5, 4)))[0]
    assert 'assert x.size(1) > 3, "traced for inputs where x.size(1) > 3"' in source


class Least(nn.Module):
    def __init__(self, least: int) -> None:
        super().__init__()
        self.fc, self.least = nn.Linear(4, 4), least

    def forward(self, x: Any) -> Any:
        return self.fc(x) if x.shape[1] > self.least else x


def test_classes_that_assert_different_numbers_are_one() -> None:
    slim = fxprune.trace(nn.Sequential(Least(2), Least(3)), torch.randn(2, 5, 4))
    source = generated(slim)[0]
    (line,) = (line for line in source.splitlines() if line.strip().startswith("assert"))
    condition, said = line.strip().removeprefix("assert ").split(", ", 1)
    assert condition.startswith("x.size(1) > self.") and said == f'"traced for inputs where {condition}"'
    assert_equal_bits(slim, torch.randn(2, 5, 4))


@pytest.mark.parametrize("name", ["n", "a_name_that_is_as_long_as_most_of_a_line_of_a_formatted_file"])
def test_a_condition_that_leaves_no_room_is_not_said(name: str) -> None:
    source = f"class A:\n    def forward(self, {name}):\n        assert {name} == 3, '{SAME}'"
    (made,) = ast.parse(source).body
    say_conditions(made)  # type: ignore[arg-type]
    assert (SAME in ast.unparse(made)) == (len(name) > 50) != (f"where {name} == 3" in ast.unparse(made))
