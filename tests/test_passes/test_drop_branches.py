"""drop-branches: a sum becomes what remains of it, and what only the branch used goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from passes_support import assert_rewrites, forward_of, prepared, tensors_of
from torch import Tensor, nn

import fxprune
from fxprune.passes import pass_of
from fxprune.passes.base import run_passes

X = torch.zeros(2, 3, 4, 4)


class Net(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.relu, self.head = nn.ReLU(inplace), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(self.relu(y + self.branch(y)))


def test_a_sum_becomes_what_remains() -> None:
    before = """
        stem = self.stem(x)
        branch_0 = getattr(self.branch, "0")(stem)
        branch_1 = getattr(self.branch, "1")(branch_0)
        add = stem + branch_1
        relu = self.relu(add)
        head = self.head(relu)
        return head
    """
    after = """
        stem = self.stem(x)
        relu = self.relu(stem)
        head = self.head(relu)
        return head
    """
    counters = {"branches removed": 1, "nodes removed": 2, "tensors removed": 7}
    assert_rewrites("drop-branches", Net(), (X,), {"branch.0": [0]}, (before, after), counters, forward_of)


def test_where_the_sum_is_written_into_it_is_a_copy() -> None:
    module, context = prepared(Net(inplace=True), (X,), {"branch.0": [0]}, "drop-branches")
    run_passes(module, [pass_of("drop-branches")], context)
    assert "add = stem.clone()\nrelu = self.relu(add)" in forward_of(module)
    assert context.counters["drop-branches"]["copies made"] == 1


def test_tensors_and_empty_containers_go() -> None:
    module, context = prepared(Net(), (X,), {"branch.0": [0]}, "drop-branches")
    run_passes(module, [pass_of("drop-branches")], context)
    assert "branch" not in tensors_of(module) and not hasattr(module, "branch")


class Nested(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        z = self.branch(y)
        return self.head(y + self.relu(z + self.inner(z)))

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)


@pytest.mark.parametrize("gone", [["inner"], ["add_1"], ["inner", "add_1"]])
def test_a_branch_in_a_branch(gone: list[str]) -> None:
    module, context = prepared(Nested(), (X,), {name: [0] for name in gone}, "drop-branches")
    run_passes(module, [pass_of("drop-branches")], context)
    code = forward_of(module)
    assert "inner" not in code and ("branch" in code) == (gone == ["inner"])


class Out(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.head(self.stem(x))


def test_an_input_is_not_handed_out() -> None:
    net = Out()
    net.head = nn.Conv2d(4, 3, 1)
    module, context = prepared(net, (X,), {"add": [0]}, "drop-branches")
    run_passes(module, [pass_of("drop-branches")], context)
    assert forward_of(module) == "add = x.clone()\nreturn add"


class Tied(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(self.other(y + self.other(y)) + y)

    def __init__(self) -> None:
        super().__init__()
        self.other: Any = self.branch[0]


def test_a_layer_that_still_runs_stays_under_all_its_names() -> None:
    analysis = fxprune.analyze(Tied(), X)
    first = next(branch for branch in analysis.branches.all.values() if not branch.tensors)
    module, context = prepared(Tied(), (X,), {first.id: [0]}, "drop-branches")
    run_passes(module, [pass_of("drop-branches")], context)
    names = {line.partition(":")[0] for line in tensors_of(module).splitlines()}
    assert any(name.endswith(("branch.0.weight", "other.weight")) for name in names)
    module.recompile()


def test_what_should_be_gone_and_is_not_is_refused() -> None:
    module, context = prepared(Net(), (X,), {"branch.0": [0]}, "drop-branches")
    with pytest.raises(fxprune.PruneError, match=r"'branch.0.bias' is still there, although only a branch that goes reads it"):
        pass_of("drop-branches").ensures(module, context)
