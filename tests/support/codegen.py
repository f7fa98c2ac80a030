"""Generated models beside the graphs that they are written from."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, GraphModule, symbolic_trace

from fxprune import nested
from fxprune.codegen import rebuild, source_of
from fxprune.codegen.roundtrip import same_result


def forward_text(slim: GraphModule) -> str:
    """The lines of forward, without indentation."""
    lines = source_of(slim).split("    def forward(", 1)[1].split("\n\n\n")[0].splitlines()[1:]
    return "\n".join(line[8:] for line in lines)


def run_once(model: nn.Module, inputs: tuple) -> list[torch.Tensor]:
    """Outputs, then the state after the run."""
    names = list(model.state_dict())  # of which PyTorch 2.6 makes more in a copy of a graph that is its own
    model, inputs = copy.deepcopy(model), copy.deepcopy(inputs)
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = nested.tensors(model(*inputs))
    state = model.state_dict()
    return [*outputs, *(state[name] for name in names)]


def assert_equal_bits(slim: GraphModule, *inputs: object) -> nn.Module:
    """The generated model has the state of `slim` and computes the same bits, in both modes; returns it."""
    made = rebuild(slim)
    assert list(made.state_dict()) == list(slim.state_dict())
    assert made.training == slim.training
    assert [p.requires_grad for p in made.parameters()] == [p.requires_grad for p in slim.parameters()]
    for training in (slim.training, not slim.training):
        expected, found = (run_once(model.train(training), inputs) for model in (slim, made))
        assert len(expected) == len(found)
        assert all(map(same_result, expected, found))
    slim.train(not slim.training)
    return made.train(slim.training)


def graph_of(root: nn.Module, build) -> GraphModule:
    """A GraphModule whose graph `build(graph, x)` makes."""
    graph = Graph()
    graph.output(build(graph, graph.placeholder("x")))
    return GraphModule(root, graph)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Identity())
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        y = self.blocks[1](self.blocks[0](x[:, :8])) + x
        y = torch.cat([y, x * 2 - 1], dim=1)
        return self.fc(y.mean((2, 3)).flatten(1))


class Custom(nn.Linear):
    pass


def traced(function, **constants: torch.Tensor) -> GraphModule:
    """Trace ``function(self, ...)`` as the forward of a module with the given buffers."""
    module = type("Net", (nn.Module,), {"forward": function})()
    for name, value in constants.items():
        module.register_buffer(name, value)
    return symbolic_trace(module)


class Ties(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.a = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.b = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.head = nn.Linear(4, 10, bias=False)
        self.scales = nn.ParameterList([nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))])
        self.register_buffer("kept", torch.randn(4))
        self.register_buffer("lost", torch.randn(4), persistent=False)
        self.head.weight = self.embed.weight
        self.b[0].bias = self.a[0].bias

    def forward(self, x):
        x = (self.embed(x).mean(1) * self.scales[1] + self.kept) * self.lost
        return self.head(self.b[0](self.a[1](self.a[0](x))) * self.scales[0])
