"""Generated models: the text, the state, and the bits of what they compute."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import operator
from collections import OrderedDict, namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.fx import Graph, GraphModule, symbolic_trace

import fxprune
from fxprune import nested
from fxprune.codegen import check_round_trip, load, rebuild, save, source_of
from fxprune.codegen.leaves import leaf
from fxprune.codegen.literals import literal, public_path
from fxprune.codegen.names import Names
from fxprune.codegen.reader import read_safetensors
from fxprune.codegen.roundtrip import same_bits, same_result
from fxprune.codegen.wrapping import wrap
from fxprune.errors import InputError, NotEquivalent, PruneError
from fxprune.tracing.tracer import select_mode


def forward_text(slim: GraphModule) -> str:
    """The lines of forward, without indentation."""
    lines = source_of(slim).split("    def forward(", 1)[1].split("\n\n\n")[0].splitlines()[1:]
    return "\n".join(line[8:] for line in lines)


def run(model: nn.Module, inputs: tuple) -> list[torch.Tensor]:
    """Outputs, then parameters and buffers after the run."""
    model, inputs = copy.deepcopy(model), copy.deepcopy(inputs)
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = nested.tensors(model(*inputs))
    return [*outputs, *model.state_dict().values()]


def assert_equal_bits(slim: GraphModule, *inputs: object) -> nn.Module:
    """The generated model has the state of `slim` and computes the same bits, in both modes; returns it."""
    made = rebuild(slim)
    assert list(made.state_dict()) == list(slim.state_dict())
    assert made.training == slim.training
    assert [p.requires_grad for p in made.parameters()] == [p.requires_grad for p in slim.parameters()]
    for training in (slim.training, not slim.training):
        expected, found = (run(model.train(training), inputs) for model in (slim, made))
        assert len(expected) == len(found)
        assert all(map(same_result, expected, found))
    slim.train(not slim.training)
    return made.train(slim.training)


def graph_of(root: nn.Module, build) -> GraphModule:
    """A GraphModule whose graph `build(graph, x)` makes."""
    graph = Graph()
    graph.output(build(graph, graph.placeholder("x")))
    return GraphModule(root, graph)


# ---- whole models

ZOO = ["resnet18", "googlenet", "shufflenet_v2_x0_5", "mobilenet_v3_small", "densenet121", "squeezenet1_1"]


@pytest.mark.parametrize("name", ZOO)
def test_torchvision_model(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    slim = symbolic_trace(model)
    made = assert_equal_bits(slim, torch.randn(2, 3, 64, 64))
    assert type(made).__name__ == type(model).__name__
    text = forward_text(slim)
    assert "operator" not in text
    assert "getattr" not in text
    assert max(map(len, source_of(slim).splitlines())) <= 110


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


def test_golden_text() -> None:
    source = source_of(symbolic_trace(Residual()))
    start = source.index("class Residual")
    assert (
        source[start : source.index("def load")].rstrip()
        == """
class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList([nn.Conv2d(8, 8, 1), nn.Identity()])
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        x = self.conv(x)
        x = self.norm(x)
        x = F.relu(x)
        y = x[:, :8]

        y = self.blocks[0](y)
        y = self.blocks[1](y)
        y = y + x
        x = x * 2
        x = x - 1
        x = torch.cat([y, x], dim=1)
        x = x.mean((2, 3)).flatten(1)
        return self.fc(x)
""".strip()
    )
    assert "import fxprune" not in source
    assert "from fxprune" not in source


# ---- leaf modules

LEAVES = {
    "nn.Conv2d(3, 8, 3, padding=1, bias=False)": None,
    "nn.Conv2d(4, 8, (3, 1), stride=(2, 1), padding=(1, 0), dilation=2, groups=4)": None,
    'nn.Conv2d(3, 8, 3, padding="same")': None,
    'nn.Conv1d(3, 8, 3, padding=1, padding_mode="circular")': None,
    "nn.Conv3d(3, 8, (1, 3, 3))": None,
    "nn.ConvTranspose2d(4, 8, 3, stride=2, output_padding=1, groups=2)": None,
    "nn.BatchNorm2d(8, eps=0.001, momentum=None)": None,
    "nn.BatchNorm1d(8, affine=False)": None,
    "nn.BatchNorm2d(8, track_running_stats=False)": None,
    "nn.SyncBatchNorm(8)": None,
    "nn.InstanceNorm2d(8, affine=True)": None,
    "nn.LayerNorm(8, eps=1e-06)": nn.LayerNorm((8,), eps=1e-6),
    "nn.LayerNorm((8, 4), bias=False)": None,
    "nn.LayerNorm(8, elementwise_affine=False)": None,
    "nn.RMSNorm(8, eps=1e-06)": None,
    "nn.GroupNorm(2, 8, affine=False)": None,
    "nn.LocalResponseNorm(5, alpha=0.1)": None,
    "nn.Linear(4, 8, bias=False)": None,
    "nn.Linear(4, 8, dtype=torch.bfloat16)": None,
    "nn.Bilinear(4, 5, 8)": None,
    "nn.Embedding(10, 4, padding_idx=0)": None,
    'nn.EmbeddingBag(10, 4, mode="sum")': None,
    "nn.LSTM(4, 8, num_layers=2, batch_first=True, dropout=0.1, bidirectional=True)": None,
    "nn.LSTM(4, 8, proj_size=3)": None,
    "nn.GRU(4, 8, bias=False, dtype=torch.float64)": None,
    'nn.RNN(4, 8, nonlinearity="relu")': None,
    "nn.LSTMCell(4, 8, bias=False)": None,
    "nn.GRUCell(4, 8)": None,
    "nn.MultiheadAttention(8, 2, dropout=0.1, bias=False, batch_first=True)": None,
    "nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True, kdim=4, vdim=5)": None,
    "nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, activation=F.gelu, norm_first=True)": None,
    "nn.MaxPool2d(3, stride=2, padding=1)": None,
    "nn.MaxPool2d(3)": nn.MaxPool2d(3, stride=None),
    "nn.MaxPool2d((3, 3), stride=(2, 1), ceil_mode=True)": None,
    "nn.MaxUnpool2d(2)": nn.MaxUnpool2d(2),
    "nn.AvgPool2d(2, count_include_pad=False)": None,
    "nn.LPPool2d(2, 3)": None,
    "nn.AdaptiveAvgPool2d(1)": None,
    "nn.AdaptiveAvgPool2d((1, None))": None,
    "nn.AdaptiveMaxPool1d(3)": None,
    "nn.ReLU(inplace=True)": None,
    "nn.ReLU6()": None,
    "nn.Hardtanh(min_val=-2.0)": None,
    "nn.LeakyReLU(negative_slope=0.2)": None,
    "nn.PReLU(num_parameters=8)": None,
    'nn.GELU(approximate="tanh")': None,
    "nn.SiLU()": None,
    "nn.Mish()": None,
    "nn.Hardswish(inplace=True)": None,
    "nn.ELU(alpha=0.5)": None,
    "nn.CELU()": None,
    "nn.Softplus(beta=2.0)": None,
    "nn.GLU(dim=1)": None,
    "nn.Threshold(0.1, 20)": None,
    "nn.Softmax(dim=-1)": None,
    "nn.LogSoftmax(dim=1)": None,
    "nn.Tanh()": None,
    "nn.Dropout(p=0.1)": None,
    "nn.Dropout2d(p=0.2, inplace=True)": None,
    "nn.AlphaDropout()": None,
    'nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True)': None,
    "nn.Upsample(size=(4, 4))": None,
    "nn.PixelShuffle(2)": None,
    "nn.PixelUnshuffle(2)": None,
    "nn.ChannelShuffle(2)": None,
    "nn.Flatten(start_dim=2)": None,
    "nn.Unflatten(1, (2, 4))": None,
    "nn.Fold((4, 4), 2, stride=2)": None,
    "nn.Unfold(2, padding=1)": None,
    "nn.Identity()": None,
    "nn.ZeroPad2d(1)": None,
    "nn.ZeroPad2d((1, 0, 2, 0))": None,
    "nn.ConstantPad1d(1, 0.5)": None,
    "nn.ReflectionPad2d(2)": None,
    "nn.CosineSimilarity(eps=1e-06)": None,
    "nn.PairwiseDistance(p=1.0)": None,
    "nn.Sequential(nn.Linear(4, 4), nn.ReLU())": None,
}


@pytest.mark.parametrize("call", LEAVES)
def test_leaf_constructor(call: str) -> None:
    module = LEAVES[call] or eval(call)
    assert leaf(module, "layer", Names()).call == call


class _Custom(nn.Linear):
    pass


def _hooked() -> nn.Module:
    module = nn.Linear(4, 4)
    module.register_forward_hook(lambda *_: None)
    return module


def _resized() -> nn.Module:
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(torch.zeros(3, 4))
    return module


def _altered() -> nn.Module:
    module = nn.Conv2d(4, 4, 3, padding=1)
    module.padding_mode = "circular"  # the cached padding of the constructor is missing
    module._reversed_padding_repeated_twice = [0, 0, 0, 0]
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "layer: ParametrizedLinear is parametrized"),
        (_hooked(), "hooks"),
        (_Custom(4, 4), "_Custom is not a class of torch"),
        (_resized(), r"layer: Linear.weight has shape \(3, 4\).* \(4, 4\)"),
        (_altered(), "_reversed_padding_repeated_twice"),
    ],
)
def test_leaf_that_cannot_be_written(module: nn.Module, message: str) -> None:
    root = nn.Module()
    root.layer = module
    slim = graph_of(root, lambda graph, x: graph.call_module("layer", (x,)))
    with pytest.raises(PruneError, match=message):
        source_of(slim)


def test_leaf_with_other_parts() -> None:
    root = nn.Module()
    root.norm = nn.BatchNorm2d(4)
    root.norm.gain = nn.Parameter(torch.randn(4, 1, 1))
    root.norm.act = nn.ReLU()
    root.norm.bias = None

    def build(graph, x):
        y = graph.call_module("norm", (x,))
        return graph.call_module("norm.act", (graph.call_function(operator.mul, (y, graph.get_attr("norm.gain"))),))

    slim = graph_of(root, build)
    assert_equal_bits(slim, torch.randn(2, 4, 3, 3))
    assert "attach(" in source_of(slim)
    assert forward_text(slim) == "x = self.norm(x)\nx = x * self.norm.gain\nreturn self.norm.act(x)"


def test_mixed_dtypes_inside_one_leaf() -> None:
    root = nn.Module()
    root.fc = nn.Linear(4, 4)
    root.fc.extra = nn.Parameter(torch.ones(2, dtype=torch.float64))
    root.fc.register_buffer("steps", torch.tensor([3]), persistent=False)
    slim = graph_of(root, lambda graph, x: graph.call_module("fc", (x,)))
    slim.fc.weight.data = slim.fc.weight.data.half().float()
    made = assert_equal_bits(slim, torch.randn(2, 4))
    assert made.fc.extra.dtype == torch.float64
    assert made.fc.steps.tolist() == [3]


# ---- constants and functions


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (True, "True"),
        (-0.5, "-0.5"),
        (math.inf, "math.inf"),
        (-math.inf, "-math.inf"),
        (2j, "complex(0.0, 2.0)"),
        ("a'b", '"a\'b"'),
        ("it's", '"it\'s"'),
        ("x\n", "'x\\n'"),
        (b"x", "b'x'"),
        (None, "None"),
        (..., "..."),
        ((1,), "(1,)"),
        ((), "()"),
        ([1, (2, 3)], "[1, (2, 3)]"),
        ({"a": [1]}, '{"a": [1]}'),
        (torch.Size([1, 2]), "torch.Size([1, 2])"),
        (slice(None, 3), "slice(None, 3, None)"),
        (range(3), "range(0, 3, 1)"),
        (torch.bfloat16, "torch.bfloat16"),
        (torch.channels_last, "torch.channels_last"),
        (torch.strided, "torch.strided"),
        (torch.device("cpu"), 'torch.device("cpu")'),
        ({2, 1}, "set([1, 2])"),
        (F.gelu, "F.gelu"),
        (int, "int"),
    ],
)
def test_literal(value: object, text: str) -> None:
    assert literal(value, Names()) == text
    assert eval(text) == value


def test_literal_nan_and_unknown() -> None:
    assert math.isnan(eval(literal(math.nan, Names())))
    with pytest.raises(PruneError, match="cannot be written as source"):
        literal(object(), Names())
    with pytest.raises(PruneError, match="Tensor"):
        literal(torch.ones(1), Names())


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (F.relu, "F.relu"),
        (torch.relu, "torch.relu"),
        (torch._C._nn.gelu, "F.gelu"),
        (torch.flatten, "torch.flatten"),
        (F.max_pool2d, "F.max_pool2d"),
        (F.scaled_dot_product_attention, "F.scaled_dot_product_attention"),
        (torch.einsum, "torch.einsum"),
        (torch.linalg.norm, "torch.linalg.norm"),
        (torch.fft.rfft2, "torch.fft.rfft2"),
        (torch.ops.aten.add.Tensor, "torch.ops.aten.add.Tensor"),
        (math.floor, "math.floor"),
        (max, "max"),
        (torch.Tensor.add, "torch.Tensor.add"),
        (torch.finfo, "torch.finfo"),
        (torch.Size, "torch.Size"),
        (operator.floordiv, "operator.floordiv"),
        (torch._VF.lstm, "torch.lstm"),
    ],
)
def test_public_path(target: object, path: str) -> None:
    assert public_path(target) == path
    assert eval(path) is target or eval(path) == target


@pytest.mark.parametrize("target", [torchvision.ops.nms, lambda x: x, json.dumps])
def test_function_outside_of_torch(target) -> None:
    slim = graph_of(nn.Module(), lambda graph, x: graph.call_function(target, (x,)))
    with pytest.raises(PruneError, match="needs torch alone"):
        source_of(slim)


# ---- statements


def traced(function, **constants: torch.Tensor) -> GraphModule:
    """Trace ``function(self, ...)`` as the forward of a module with the given buffers."""
    module = type("Net", (nn.Module,), {"forward": function})()
    for name, value in constants.items():
        module.register_buffer(name, value)
    return symbolic_trace(module)


def _arithmetic(self, x, y):
    return -(x + y) * (x - (y - 1)) / ((x * 2) ** 2 + 1) ** -(y**2) - (-x) ** 2 @ x.T


def _comparison(self, x, y):
    return ((x < y) == (y > 0)) & ~(x != y) | (x >= 1)


def _slices(self, x, y):
    return (
        x[:, :2],
        x[..., None, 0],
        x[1:3:2],
        x[0],
        x[-1, ::2],
        x[[0, 2]],
        x[(slice(1), [0])],
        x[y > 0],
        y[(0,)],
    )


def _sizes(self, x, y):
    batch, width = x.shape[0], x.size(1)
    return x.reshape(batch, width // 2, -1).sum(-1), y.new_zeros((batch * width, (width - 1) % 3)), x.shape


def _chunks(self, x, y):
    a, b = x.chunk(2, dim=1)
    c, d, e = y.split([1, 1, 2], dim=1)
    parts = torch.unbind(x, 1)
    return a * b, c + d, e, parts[0] + parts[3], torch.max(y, 1)[1]


def _containers(self, x, y):
    return {"out": x + 1, "rest": [y, (x, None, 3)], "self": {"a": x * math.inf}}


def _default(self, x, y=None, scale=-2.5, mode="a'b"):
    return x * scale


def _constants(self, x, y):
    return x * self.table - self.scale + F.pad(y, (0, 0), value=float("-inf"))


@pytest.mark.parametrize(
    "function",
    [_arithmetic, _comparison, _slices, _sizes, _chunks, _containers, _default],
    ids=lambda function: function.__name__,
)
def test_forward(function) -> None:
    assert_equal_bits(traced(function), torch.randn(4, 4), torch.randn(4, 4))


def test_buffers_and_unused_arguments() -> None:
    slim = traced(_constants, table=torch.randn(4), scale=torch.tensor(3.0))
    assert_equal_bits(slim, torch.randn(4, 4), torch.randn(4, 4))
    assert "x * self.table" in forward_text(slim)


def test_keyword_arguments_keep_their_names() -> None:
    made = rebuild(traced(_default))
    assert torch.equal(made(x=torch.ones(2), scale=3), 3 * torch.ones(2))
    assert torch.equal(made(torch.ones(2)), -2.5 * torch.ones(2))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda self, x: (x + 1) * 2, "x = x + 1\nreturn x * 2"),
        (lambda self, x: x.flatten(1).transpose(0, 1), "return x.flatten(1).transpose(0, 1)"),
        (lambda self, x: x.reshape(x.size(0), -1), "return x.reshape(x.size(0), -1)"),
        (lambda self, x: x[:, x.shape[1] // 2 :, None], "return x[:, x.shape[1] // 2:, None]"),
        (lambda self, x: F.interpolate(x, scale_factor=2.0), "return F.interpolate(x, scale_factor=2.0)"),
        (lambda self, x: x.chunk(2, 1)[0] + 1, "chunks = x.chunk(2, 1)\nreturn chunks[0] + 1"),
        (lambda self, x: (x, x + 1), "y = x + 1\nreturn x, y"),
    ],
)
def test_text_of_forward(function, text: str) -> None:
    slim = traced(function)
    assert forward_text(slim) == text
    assert_equal_bits(slim, torch.randn(2, 4, 3))


IADD = "call_function", operator.iadd


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda g, x, y: g.create_node(*IADD, (x, y)), "x += y\nreturn x"),
        (lambda g, x, y: g.create_node(*IADD, (y, x)), "y += x\nreturn y"),
        (lambda g, x, y: (g.create_node(*IADD, (x, y)), x), "z = x\nz += y\nreturn z, x"),
        (lambda g, x, y: (g.create_node(*IADD, (x, y)), y)[1], "x += y\nreturn y"),
        (lambda g, x, y: (g.create_node(*IADD, (y, x)), y)[1], "y += x\nreturn y"),
        (lambda g, x, y: g.call_function(operator.ilshift, (x, 1)), "x <<= 1\nreturn x"),
        (
            lambda g, x, y: (g.call_function(operator.setitem, (x, (slice(None), slice(1, None)), 0)), x)[1],
            "x[:, 1:] = 0\nreturn x",
        ),
        (
            lambda g, x, y: g.call_function(operator.iadd, (g.call_method("size", (x, 0)), 1)),
            "return x.size(0) + 1",
        ),
        (lambda g, x, y: (g.call_method("mul_", (x, y)), x)[1], "x.mul_(y)\nreturn x"),
    ],
)
def test_changes_in_place(build, text: str) -> None:
    graph = Graph()
    graph.output(build(graph, graph.placeholder("x"), graph.placeholder("y")))
    slim = GraphModule(nn.Module(), graph)
    assert forward_text(slim) == text
    assert_equal_bits(slim, torch.arange(4).reshape(2, 2), torch.ones(2, 2, dtype=torch.int64))


def test_builtins_and_math() -> None:
    def build(graph, x):
        height, width = (graph.call_method("size", (x, i)) for i in (0, 1))
        larger = graph.call_function(max, (height, width))
        half = graph.call_function(int, (graph.call_function(operator.truediv, (larger, 2)),))
        root = graph.call_function(math.floor, (graph.call_function(math.sqrt, (half,)),))
        device = graph.call_function(getattr, (x, "device"))
        return graph.call_function(torch.zeros, (half, root), {"dtype": torch.float64, "device": device})

    slim = graph_of(nn.Module(), build)
    made = assert_equal_bits(slim, torch.randn(6, 9))
    assert made(torch.randn(6, 9)).shape == (4, 2)
    assert "int(max(x.size(0), x.size(1)) / 2)" in forward_text(slim)


def test_arguments_that_hide_global_names() -> None:
    graph = Graph()
    torch_, f, max_, nn_ = (graph.placeholder(name) for name in ("torch", "F", "max", "nn"))
    y = graph.call_function(F.relu, (graph.call_function(torch.sigmoid, (torch_,)),))
    size = graph.call_function(max, (graph.call_method("size", (f, 0)), 2))
    z = graph.call_method("to", (graph.call_function(operator.mul, (y, size)),), {"dtype": torch.float64})
    graph.output((z, graph.call_function(operator.add, (max_, nn_))))
    slim = GraphModule(nn.Module(), Graph())
    slim._graph = graph  # fx itself cannot run such a graph
    made = rebuild(slim)
    x = torch.randn(4)
    found, total = made(torch=x, F=torch.zeros(5), max=1, nn=2)
    assert same_bits(found, (torch.relu(torch.sigmoid(x)) * 5).double())
    assert total == 3


def test_sizes_are_read_before_the_shape_changes() -> None:
    def build(graph, x):
        size = graph.call_method("size", (x, 0))
        y = graph.call_method("unsqueeze_", (x, 0))
        return graph.call_method("reshape", (y, size, -1))

    slim = graph_of(nn.Module(), build)
    assert_equal_bits(slim, torch.randn(4, 3))


def test_assertions() -> None:
    def build(graph, x):
        size = graph.call_method("size", (x, 2))
        graph.call_function(torch._assert, (graph.call_function(operator.eq, (size, 4)), "need 4"))
        graph.call_function(
            torch._assert,
            (graph.call_function(operator.not_, (graph.call_function(operator.lt, (size, 2)),)), ""),
        )
        return x

    slim = graph_of(nn.Module(), build)
    assert forward_text(slim) == "\n".join(
        ["height = x.size(2)", 'assert height == 4, "need 4"', "assert height >= 2", "return x"]
    )
    with pytest.raises(AssertionError, match="need 4"):
        rebuild(slim)(torch.zeros(1, 1, 3))


def test_long_assertion_message() -> None:
    message = "the height must be a multiple of the size of the windows, " * 3

    def build(graph, x):
        graph.call_function(torch._assert, (graph.call_method("dim", (x,)), message))
        return x

    slim = graph_of(nn.Module(), build)
    assert max(map(len, forward_text(slim).splitlines())) < 100
    with pytest.raises(AssertionError, match=message):
        rebuild(slim)(torch.tensor(1.0))


# ---- named outputs


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor | None = None


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    hidden: list = dataclasses.field(default_factory=list)


class ModelOutput(OrderedDict):
    pass


Plain = namedtuple("Plain", ["x", "torch"])


def test_named_tuples() -> None:
    slim = traced(lambda self, x: (Pair(x + 1), Plain(x, x - 1)))
    pair, plain = assert_equal_bits(slim, torch.randn(3))(torch.zeros(3))
    assert pair.first.tolist() == [1, 1, 1]
    assert pair._fields == Pair._fields
    assert pair.second is None
    assert plain.torch.tolist() == [-1, -1, -1]


def test_dataclass_and_dict_subclass() -> None:
    def build(graph, x):
        inner = graph.call_function(ModelOutput, (), {"logits": x})
        return graph.call_function(Output, (), {"logits": inner})

    slim = graph_of(nn.Module(), build)
    found = rebuild(slim)(torch.zeros(3))
    assert type(found).__name__ == "Output"
    assert type(found.logits) is dict
    assert found.hidden == []


# ---- modes


def test_blocks_for_one_mode() -> None:
    root = nn.Module()
    root.aux = nn.Linear(4, 4)
    root.head = nn.Linear(4, 4)

    def build(graph, x):
        flag = graph.get_attr("training")
        aux = graph.call_module("aux", (x,))
        aux = graph.call_function(torch.relu, (aux,))
        y = graph.call_module("head", (x,))
        scaled = graph.call_function(operator.mul, (y, 2))
        return graph.call_function(select_mode, (flag, graph.call_function(Pair, (y, aux)), scaled))

    graph_root = root
    slim = graph_of(graph_root, build)
    assert forward_text(slim) == "\n".join(
        [
            "if self.training:",
            "    y = self.aux(x)",
            "    y = torch.relu(y)",
            "x = self.head(x)",
            "if not self.training:",
            "    z = x * 2",
            "if self.training:",
            "    return Pair(x, y)",
            "return z",
        ]
    )
    assert_equal_bits(slim, torch.randn(2, 4))


def test_blocks_for_either_mode() -> None:
    def build(graph, x):
        flag = graph.get_attr("training")
        a = graph.call_function(torch.relu, (x,))
        b = graph.call_function(torch.sigmoid, (x,))
        chosen = graph.call_function(select_mode, (flag, a, b))
        return graph.call_function(operator.add, (chosen, x))

    slim = graph_of(nn.Module(), build)
    assert forward_text(slim) == "\n".join(
        [
            "if self.training:",
            "    y = torch.relu(x)",
            "else:",
            "    z = torch.sigmoid(x)",
            "y = y if self.training else z",
            "return y + x",
        ]
    )
    assert_equal_bits(slim, torch.randn(2, 4))


def test_mode_of_a_submodule_as_an_expression() -> None:
    root = nn.Module()
    root.blocks = nn.ModuleList([nn.Module()])
    root.blocks[0].attn = nn.Module()

    def build(graph, x):
        flag = graph.get_attr("blocks.0.attn.training")
        rate = graph.call_function(select_mode, (flag, 0.5, 0.0))
        return graph.call_function(F.dropout, (x, rate, flag))

    slim = graph_of(root, build)
    assert forward_text(slim) == (
        "y = 0.5 if self.blocks[0].attn.training else 0.0\nreturn F.dropout(x, y, self.blocks[0].attn.training)"
    )
    assert_equal_bits(slim, torch.randn(8))


def test_changes_in_place_happen_in_both_modes() -> None:
    def build(graph, x):
        y = graph.call_method("clone", (x,))
        changed = graph.call_method("mul_", (y, 2))
        flag = graph.get_attr("training")
        z = graph.call_function(operator.add, (y, 1))
        return graph.call_function(select_mode, (flag, changed, z))

    assert_equal_bits(graph_of(nn.Module(), build), torch.randn(3))


# ---- state


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


def test_tied_parameters() -> None:
    slim = symbolic_trace(Ties())
    slim.register_buffer("lost", slim.lost, persistent=False)  # symbolic_trace makes it persistent
    made = assert_equal_bits(slim, torch.arange(10).reshape(5, 2))
    assert made.head.weight is made.embed.weight
    assert made.b[0].bias is made.a[0].bias
    assert list(made.state_dict()) == list(slim.state_dict())
    assert "lost" not in made.state_dict()
    assert same_bits(made.lost, slim.lost)
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in slim.parameters())


def test_tied_module() -> None:
    slim = symbolic_trace(Residual())
    slim.blocks.add_module("2", nn.Module())
    slim.blocks.get_submodule("2").inner = slim.norm
    slim.graph.inserting_before(next(iter(slim.graph.nodes)))
    made = rebuild(slim)
    assert made.blocks[2].inner is made.norm
    assert list(made.state_dict()) == list(slim.state_dict())


def test_module_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.fc(x).relu())

    assert_equal_bits(symbolic_trace(Twice()), torch.randn(2, 4))


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(4, 6, num_layers=2, bidirectional=True),
        nn.GRU(4, 6, batch_first=True),
        nn.LSTM(4, 6, proj_size=2, dtype=torch.float64),
    ],
)
def test_recurrent_layer(layer: nn.Module) -> None:
    root = nn.Module()
    root.rnn = layer

    def build(graph, x):
        both = graph.call_module("rnn", (x,))
        return graph.call_function(operator.getitem, (both, 0)), graph.call_function(operator.getitem, (both, 1))

    slim = graph_of(root, build)
    assert_equal_bits(slim, torch.randn(3, 5, 4, dtype=layer.weight_ih_l0.dtype))
    assert forward_text(slim) == "x, y = self.rnn(x)\nreturn x, y"


def test_attention_layer() -> None:
    root = nn.Module()
    root.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def build(graph, x):
        both = graph.call_module("attention", (x, x, x), {"need_weights": False})
        return graph.call_function(operator.getitem, (both, 0))

    slim = graph_of(root, build)
    assert_equal_bits(slim, torch.randn(3, 5, 8))
    assert "outputs[0]" in forward_text(slim)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    slim = symbolic_trace(Residual().to(dtype))
    made = assert_equal_bits(slim, torch.randn(2, 3, 8, 8, dtype=dtype))
    assert {p.dtype for p in made.parameters()} == {dtype}
    assert all(map(same_bits, load(save(slim, tmp_path)).state_dict().values(), slim.state_dict().values()))


def test_modes_and_frozen_parameters() -> None:
    model = Residual().train()
    model.norm.eval()
    model.blocks.requires_grad_(False)
    model.fc.bias.requires_grad_(False)
    slim = symbolic_trace(model)
    made = rebuild(slim)
    assert made.training
    assert not made.norm.training
    assert made.conv.training
    frozen = [name for name, p in made.named_parameters() if not p.requires_grad]
    assert frozen == [name for name, p in slim.named_parameters() if not p.requires_grad] != []
    assert not rebuild(symbolic_trace(Residual().eval())).training


def test_channels_last() -> None:
    slim = symbolic_trace(Residual()).to(memory_format=torch.channels_last)
    assert rebuild(slim).conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_odd_names() -> None:
    root = nn.Module()
    for name in ("0x", "__hidden", "torch"):
        child = nn.Module()
        child.add_module("__odd", nn.Linear(4, 4))
        child.add_module("3", nn.Linear(4, 4))
        root.add_module(name, child)
    root.register_parameter("__scale", nn.Parameter(torch.randn(4)))

    def build(graph, x):
        for name in ("0x", "__hidden", "torch"):
            x = graph.call_module(f"{name}.3", (graph.call_module(f"{name}.__odd", (x,)),))
        return graph.call_function(operator.mul, (x, graph.get_attr("__scale")))

    assert_equal_bits(graph_of(root, build), torch.randn(2, 4))


def test_numbered_root() -> None:
    slim = symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten()))
    assert_equal_bits(slim, torch.randn(1, 3, 2, 2))
    assert "input = self[0](input)" in forward_text(slim)


# ---- files


def test_save_and_load(tmp_path: Path) -> None:
    slim = symbolic_trace(Residual().eval())
    slim.meta["fxprune"] = SimpleNamespace(
        model='evil"""\nimport os', macs_before=4000, macs_after=1000, params_before=200, params_after=50
    )
    first, second = save(slim, tmp_path / "new" / "dir"), save(slim, tmp_path / "other.py")
    assert first == tmp_path / "new" / "dir" / "slim.py"
    assert sorted(path.name for path in first.parent.iterdir()) == ["slim.py", "slim.safetensors"]
    assert second.with_suffix(".safetensors").read_bytes() == first.with_suffix(".safetensors").read_bytes()
    assert save(slim, tmp_path / "third").read_bytes() == first.read_bytes()
    header = first.read_text().split('"""')[1]
    assert "evil''' import os" in header
    assert "(-75.0%)" in header
    x = torch.randn(2, 3, 8, 8)
    for path in (first, first.parent, second, str(second)):
        assert same_result(load(path)(x), slim(x))
    assert not list(tmp_path.rglob("*.pyc"))


def test_safetensors_library_reads_the_weights(tmp_path: Path) -> None:
    slim = symbolic_trace(Residual())
    file = save(slim, tmp_path)
    stored = safetensors.torch.load_file(file.with_suffix(".safetensors"))
    assert stored.keys() == slim.state_dict().keys()


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    save(symbolic_trace(Residual()), tmp_path)
    other = symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    save(other, tmp_path)
    assert list(load(tmp_path).state_dict()) == list(other.state_dict())
    with pytest.raises(PruneError):
        broken = symbolic_trace(nn.Sequential(_Custom(2, 2)))
        broken.get_submodule("0").register_forward_hook(lambda *_: None)
        save(graph_of(broken, lambda graph, x: graph.call_module("0", (x,))), tmp_path)
    assert list(load(tmp_path).state_dict()) == list(other.state_dict())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("wrong", [nn.Linear(2, 2), "model", None])
def test_save_refuses_other_things(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a torch"):
        save(wrong, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_save_refuses_wrong_places(tmp_path: Path) -> None:
    slim = symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    (tmp_path / "file").write_text("")
    (tmp_path / "dir.py").mkdir()
    for place in ("file", "dir.py", "file/slim.py"):
        with pytest.raises(InputError, match="not a place"):
            save(slim, tmp_path / place)
    with pytest.raises(PruneError, match="meta device"):
        save(slim.to("meta"), tmp_path / "x")


def test_load_refuses_missing_and_damaged_files(tmp_path: Path) -> None:
    file = save(symbolic_trace(nn.Sequential(nn.Linear(2, 2))), tmp_path)
    weights = file.with_suffix(".safetensors")
    good_weights, good_source = weights.read_bytes(), file.read_bytes()
    for data in (
        b"",
        good_weights[:5],
        good_weights[:-1],
        b"\xff" * 8 + good_weights[8:],
        good_weights + b"x",
    ):
        weights.write_bytes(data)
        if data != good_weights + b"x":
            with pytest.raises(PruneError, match="cannot be loaded"):
                load(tmp_path)
    weights.write_bytes(good_weights)
    file.write_text("def load(")
    with pytest.raises(PruneError, match="cannot be loaded"):
        load(tmp_path)
    file.write_bytes(good_source)
    weights.unlink()
    with pytest.raises(PruneError, match="does not exist"):
        load(tmp_path)
    with pytest.raises(InputError, match="neither a directory nor"):
        load(tmp_path / "model.pt")


def _file(header: object, data: bytes = bytes(8)) -> io.BytesIO:
    text = json.dumps(header).encode()
    return io.BytesIO(len(text).to_bytes(8, "little") + text + data)


def _entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "header",
    [
        [],
        3,
        {"a": 1},
        _entry("F33"),
        _entry(shape=[3]),
        _entry(offsets=(0, 9)),
        _entry(offsets=(4, 12)),
        _entry(offsets=(-8, 0)),
        _entry(shape=[-1, -2]),
        _entry(shape=[1 << 62, 4], offsets=(0, 0)),
        _entry(offsets="ab"),
        _entry(shape="ab"),
        _entry(offsets=(0, 8, 16)),
        _entry(shape=None),
    ],
)
def test_reader_refuses_hostile_headers(header: object) -> None:
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_safetensors(_file(header))


def test_reader_refuses_deep_nesting() -> None:
    text = b"[" * 200_000
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_safetensors(io.BytesIO(len(text).to_bytes(8, "little") + text))


def test_reader_reads_every_dtype() -> None:
    dtypes = [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
    ]
    dtypes += [torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]
    tensors = {str(dtype): torch.tensor([[1, 0], [3, 1]]).to(dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    found = read_safetensors(io.BytesIO(safetensors.torch.save(tensors)))
    assert found.keys() == tensors.keys()
    assert all(same_bits(found[name], tensors[name]) for name in tensors)


def test_generated_load_names_what_does_not_fit(tmp_path: Path) -> None:
    file = save(symbolic_trace(nn.Sequential(nn.Linear(2, 2))), tmp_path)
    weights = file.with_suffix(".safetensors")
    for tensors, message in [
        ({"0.weight": torch.zeros(2, 2)}, "'0.bias' is missing"),
        (
            {"0.weight": torch.zeros(2, 3), "0.bias": torch.zeros(2)},
            r"has shape \(2, 3\), expected shape \(2, 2\)",
        ),
        ({"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2), "c": torch.zeros(1)}, "has no 'c'"),
    ]:
        safetensors.torch.save_file(tensors, weights)
        with pytest.raises(PruneError, match=message):
            load(tmp_path)


def test_fresh_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_round_trip(symbolic_trace(Residual()), tmp_path / "train", (torch.randn(2, 3, 8, 8),))
    check_round_trip(traced(_default), tmp_path / "named", {"x": torch.randn(3), "scale": 2})


def test_fresh_process_finds_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slim = symbolic_trace(nn.Sequential(nn.Linear(2, 2)).eval())
    file = save(slim, tmp_path)
    text = file.read_text()

    def damaged(replacement: tuple[str, str]):
        def write(*_: object) -> Path:
            file.write_text(text.replace(*replacement))
            return file

        return write

    for replacement, message in [
        (("return self[0](input)", "return self[0](input) + 1"), "output tensor 0 differs"),
        (("import json", "import json, fxprune"), "must not need fxprune"),
        (("return self[0](input)", "return input, input"), "returns 2 tensors"),
    ]:
        monkeypatch.setattr("fxprune.codegen.roundtrip.save", damaged(replacement))
        with pytest.raises(NotEquivalent, match=message):
            check_round_trip(slim, tmp_path, (torch.randn(1, 2),))


def test_random_numbers_and_model_are_left_alone() -> None:
    slim = symbolic_trace(Ties())
    code, state, seed = slim.code, copy.deepcopy(slim.state_dict()), torch.get_rng_state()
    rebuild(slim)
    assert torch.equal(torch.get_rng_state(), seed)
    assert slim.code == code
    assert all(map(same_bits, slim.state_dict().values(), state.values()))


def test_public_names() -> None:
    assert fxprune.save is save
    assert fxprune.load is load


def test_graphs_of_torch_export_are_refused() -> None:
    exported = torch.export.export(nn.Sequential(nn.Linear(2, 2)), (torch.zeros(1, 2),)).module()
    with pytest.raises(PruneError, match="flatten their inputs"):
        source_of(exported)


# ---- layout


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x = f(a, b)", ["x = f(a, b)"]),
        ("x = torch.cat([alpha, beta], dim=1)", ["x = torch.cat(", "    [alpha, beta], dim=1", ")"]),
        ("x = f([gamma(alpha), gamma(beta)])", ["x = f([", "    gamma(alpha),", "    gamma(beta),", "])"]),
        ("x = [g(alphabet) for _ in range(3)]", ["x = [", "    g(alphabet)", "    for _ in range(3)", "]"]),
        ("x = alphabet[self.beta.gamma]", ["x = alphabet[", "    self.beta.gamma", "]"]),
        ("x = (alphabet + beta + gamma)", ["x = (alphabet + beta + gamma)"]),
        ('x = f("a, (b", alphabet, gamma)', ["x = f(", '    "a, (b",', "    alphabet,", "    gamma,", ")"]),
    ],
)
def test_wrap(text: str, lines: list[str]) -> None:
    assert wrap(text, width=26) == lines
