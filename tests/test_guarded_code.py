"""Code of nodes that run in one mode only, and the values of a run in which every node has one."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx, nn

import fxprune
from fxprune.tracing.graphs.guarded_code import GuardedCode, guard_modes
from fxprune.tracing.tracer import trace_graph


class Auxiliary(nn.Module):
    """A head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.body(x)
        if self.training:
            return self.head(x), self.aux(x).mean((2, 3))
        found: Tensor = self.head(x)
        return found


@dataclass
class Maps:
    """What `Structured` returns."""

    low: Tensor
    high: Tensor


class Structured(nn.Module):
    """Returns a dataclass that is no dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Maps:
        low = self.a(x)
        return Maps(low, self.c(torch.relu(self.b(low))))


def test_code_says_the_mode() -> None:
    module = fxprune.trace(Auxiliary().eval(), torch.zeros(2, 3, 8, 8))
    body = [line.strip().partition(";")[0] for line in module.code.strip().splitlines()[1:]]
    assert body == [
        "training = self.training",
        "body = self.body(x)",
        "head = self.head(body)",
        "aux = self.aux(body) if training else None",
        "mean = aux.mean((2, 3)) if training else None",
        "select_mode = fxprune_tracing_graphs_modes_select_mode(training, (head, mean), head)",
        "return select_mode",
    ]
    assert "self.aux(body) if training else None" in module.print_readable(print_output=False)


def test_a_copy_and_an_edited_graph_keep_their_modes() -> None:
    module = copy.deepcopy(fxprune.trace(Auxiliary().eval(), torch.zeros(2, 3, 8, 8)))
    node = next(n for n in module.graph.nodes if n.name == "mean")
    with module.graph.inserting_after(node):
        doubled = module.graph.call_function(torch.mul, (node, 2))
        doubled.meta["mode"] = "training"
    node.replace_all_uses_with(doubled, lambda user: user is not doubled)
    module.recompile()
    assert "mul = torch.mul(mean, 2) if training else None" in module.code
    image = torch.randn(2, 3, 8, 8)
    assert isinstance(module.eval()(image), Tensor)
    _, aux = module.train()(image)
    torch.testing.assert_close(aux, 2 * module.aux(module.body(image)).mean((2, 3)))


def test_a_transformer_of_others_comes_after() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    flag = graph.get_attr("training")
    y = graph.call_function(torch.relu, (x,))
    y.meta["mode"] = "training"
    graph.output((flag, y))
    guard_modes(graph)
    assert type(graph._codegen) is GuardedCode
    graph.on_generate_code(lambda _: lambda body: [item.replace("relu(x) if", "abs(x) if") for item in body])
    assert "relu = torch.abs(x) if training else None" in graph.python_code("self").src


def test_a_line_that_is_not_found_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fxprune.trace(Auxiliary().eval(), torch.zeros(2, 3, 8, 8))
    written = fx.graph.CodeGen._gen_python_code

    def other(self: fx.graph.CodeGen, *args: object, **kwargs: object) -> object:
        transform = self._body_transformer
        assert transform is not None
        self._body_transformer = lambda body: transform([item.replace("aux = ", "aux := ") for item in body])
        return written(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(fx.graph.CodeGen, "_gen_python_code", other)
    with pytest.raises(AssertionError, match="aux"):
        module.recompile()


@pytest.mark.parametrize("model", [Auxiliary(), Structured()], ids=lambda m: type(m).__name__)
def test_every_node_has_a_value(model: nn.Module) -> None:
    traced = trace_graph(model, (torch.zeros(2, 3, 8, 8),))
    assert set(traced.graph.nodes) == set(traced.values) == set(traced.axes)


def test_outputs_in_a_dataclass_keep_their_channels() -> None:
    model, image = Structured().eval(), torch.randn(2, 3, 8, 8)
    slim = fxprune.prune(model, 0.5, image, scope="layer")
    assert [g.size for g in slim.meta["fxprune"].plan.groups if g.status == "free"] == [6]
    found = slim(image)
    assert type(found) is Maps and found.low.shape[1] == 8 and found.high.shape[1] == 4
    torch.testing.assert_close(found.low, model(image).low)
