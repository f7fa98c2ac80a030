"""Two graphs, one a mode, become one: as printed code, and run in both modes."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.tracing.graphs.guarded_code import guard_modes
from fxprune.tracing.graphs.modes import in_evaluation, merge_modes, select_mode, writes

Forward = Callable[[Tensor], Any]


def recorded(forward: Forward) -> fx.Graph:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return forward(x)

    return fx.symbolic_trace(Net()).graph


def merged(evaluation: Forward, training: Forward) -> fx.Graph:
    graph = merge_modes(recorded(evaluation), recorded(training))
    guard_modes(graph)
    graph.lint()
    return graph


def printed(graph: fx.Graph) -> str:
    """The lines of forward, without the deletion of names."""
    lines = graph.python_code("self").src.split("\n", 1)[1].partition("def forward")[2].splitlines()[1:]
    text = "\n".join(re.sub(r";  [\w\s=]*= None$", "", line.strip()) for line in lines)
    return re.sub(r"\w+_select_mode\(", "select_mode(", text).strip()


def add_in_place(x: fx.Proxy) -> fx.Proxy:
    """``x += 2``, which fx records as an addition."""
    return x.tracer.create_proxy("call_function", operator.iadd, (x, 2), {})


def set_item(x: fx.Proxy) -> fx.Proxy:
    """``x[0] = 2``, which fx refuses."""
    return x.tracer.create_proxy("call_function", operator.setitem, (x, 0, 2), {})


def written_in_one_mode(x: Tensor) -> Tensor:
    return torch.tanh(x).mul_(2)


MERGED: dict[str, tuple[Forward, Forward, str]] = {
    "equal graphs need no flag": (lambda x: x * 2, lambda x: x * 2, "mul = x * 2\nreturn mul"),
    "another number": (
        lambda x: x * 2,
        lambda x: x * 3,
        "training = self.training\nselect_mode = select_mode(training, 3, 2)\nmul = x * select_mode\nreturn mul",
    ),
    "a step of training alone": (
        lambda x: torch.relu(x) + 1,
        lambda x: torch.relu(torch.sigmoid(x)) + 1,
        "training = self.training\n"
        "sigmoid = torch.sigmoid(x) if training else None\n"
        "select_mode = select_mode(training, sigmoid, x)\n"
        "relu = torch.relu(select_mode)\n"
        "add = relu + 1\n"
        "return add",
    ),
    "a step of evaluation alone": (
        lambda x: torch.sigmoid(x) + 1,
        lambda x: x + 1,
        "training = self.training\n"
        "sigmoid = torch.sigmoid(x) if not training else None\n"
        "select_mode = select_mode(training, x, sigmoid)\n"
        "add = select_mode + 1\n"
        "return add",
    ),
    "one output more in training": (
        lambda x: x * 2,
        lambda x: (x * 2, x + 1),
        "training = self.training\n"
        "mul = x * 2\n"
        "add = x + 1 if training else None\n"
        "select_mode = select_mode(training, (mul, add), mul)\n"
        "return select_mode",
    ),
    "lists differ in one place": (
        lambda x: [x * 2, x],
        lambda x: [x * 2, x + 1],
        "training = self.training\n"
        "mul = x * 2\n"
        "add = x + 1 if training else None\n"
        "select_mode = select_mode(training, add, x)\n"
        "return [mul, select_mode]",
    ),
    "a keyword": (
        lambda x: torch.softmax(x, dim=0),
        lambda x: torch.softmax(x, dim=1),
        "training = self.training\n"
        "select_mode = select_mode(training, 1, 0)\n"
        "softmax = torch.softmax(x, dim = select_mode)\n"
        "return softmax",
    ),
    "a write into what its mode made": (
        lambda x: x * 2,
        written_in_one_mode,
        "training = self.training\n"
        "mul = x * 2 if not training else None\n"
        "tanh = torch.tanh(x) if training else None\n"
        "mul_ = tanh.mul_(2) if training else None\n"
        "select_mode = select_mode(training, mul_, mul)\n"
        "return select_mode",
    ),
}


@pytest.mark.parametrize("kind", MERGED)
def test_the_code_of_both_modes(kind: str) -> None:
    evaluation, training, text = MERGED[kind]
    graph = merged(evaluation, training)
    assert printed(graph) == text


@pytest.mark.parametrize("kind", MERGED)
def test_each_mode_computes_what_its_graph_did(kind: str) -> None:
    evaluation, training, _ = MERGED[kind]
    net = fx.GraphModule(nn.Module(), merged(evaluation, training))
    x = torch.randn(3, 4)
    for mode, forward in ((False, evaluation), (True, training)):
        net.training = mode
        found, expected = nested.tensors(net(x.clone())), nested.tensors(forward(x.clone()))
        assert len(found) == len(expected) and all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    "write",
    [lambda x: x.mul_(2), lambda x: add_in_place(x), lambda x: F.relu(x, inplace=True), lambda x: set_item(x)],
    ids=["method", "operator", "keyword", "item"],
)
def test_a_write_of_one_mode_into_a_tensor_of_both_happens_in_that_mode(write: Forward) -> None:
    def plain(x: Tensor) -> Any:
        y = torch.tanh(x)
        return y * 3

    def written(x: Tensor) -> Any:
        y = torch.tanh(x)
        write(y)
        return y * 3

    x = torch.randn(3, 4)
    for evaluation, training in ((plain, written), (written, plain)):
        net = fx.GraphModule(nn.Module(), merged(evaluation, training))
        for mode, forward in ((False, evaluation), (True, training)):
            net.training = mode
            alone = fx.GraphModule(nn.Module(), recorded(forward))
            assert torch.equal(net(x), alone(x))


def test_places_in_the_model_tell_equal_operations_apart() -> None:
    """Nodes are aligned by operation and place: the same place is one node, another place is another."""
    for place, count in (("body", 1), ("head", 2)):
        one, other = recorded(lambda x: torch.relu(x)), recorded(lambda x: torch.relu(x))
        for graph, scope in ((one, "body"), (other, place)):
            for node in graph.nodes:
                if node.op == "call_function":
                    node.meta["scope"] = scope
        found = merge_modes(one, other)
        assert sum(node.target is torch.relu for node in found.nodes) == count


def test_what_evaluation_needs() -> None:
    graph = merge_modes(recorded(lambda x: x * 2), recorded(lambda x: (x * 2, torch.relu(x))))
    assert in_evaluation(graph) == {"x", "training", "mul", "select_mode", "output"}
    plain = recorded(lambda x: x * 2)
    assert in_evaluation(plain) == {node.name for node in plain.nodes}


def test_a_graph_without_modes_is_printed_as_it_is() -> None:
    graph = recorded(lambda x: x * 2)
    before = graph.python_code("self").src
    guard_modes(graph)
    assert graph.python_code("self").src == before


@pytest.mark.parametrize(("training", "chosen"), [(True, "a"), (False, "b")])
def test_select_mode(training: bool, chosen: str) -> None:
    assert select_mode(training, "a", "b") == chosen


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda x: x.mul_(2), True),
        (lambda x: F.relu(x, inplace=True), True),
        (lambda x: add_in_place(x), True),
        (lambda x: torch.relu_(x), True),
        (lambda x: x.mul(2), False),
        (lambda x: F.relu(x, inplace=False), False),
        (lambda x: operator.add(x, 1), False),
        (lambda x: x.__and__(1), False),
    ],
    ids=["method", "keyword", "operator", "function", "new by method", "new by keyword", "new by operator", "dunder"],
)
def test_nodes_that_write(forward: Forward, expected: bool) -> None:
    *_, node, _ = recorded(forward).nodes
    assert writes(node) == expected
