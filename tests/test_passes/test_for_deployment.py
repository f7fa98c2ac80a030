"""keep-evaluation, drop-idle, fold-norms, fold-scales, merge-linear: code before and after, what they leave alone, numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from passes_support import forward_of, leaves_of
from torch import Tensor, fx, nn

import fxprune
from fxprune.passes import pass_of
from fxprune.proofs.randomize import randomize

X = torch.zeros(2, 3, 4, 4)


def network(forward: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> nn.Module:
    """A network of these parts, with random weights."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

    Net.forward = forward  # type: ignore[method-assign]
    return randomize(Net())


def recorded(forward: Callable[..., Any], inputs: Tensor = X, **parts: nn.Module | nn.Parameter) -> fx.GraphModule:
    """A network of these parts, recorded, in float64, in evaluation; its values' shapes are known."""
    module = fxprune.trace(network(forward, **parts), inputs).double().eval()
    pass_of("keep-evaluation").run(module, None)
    env = _Shapes(module)
    env.run(inputs.double())
    return module


class _Shapes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta["shape"] = tuple(value.shape)
        return value


def assert_rewrites(module: fx.GraphModule, name: str, change: tuple[str, str], count: int, inputs: Tensor = X) -> None:
    """The pass turns the first code into the second, counts so much, and the outputs stay what they were."""
    before, after = change
    assert forward_of(module) == textwrap.dedent(before).strip()
    x = torch.randn(inputs.shape, dtype=torch.float64)
    expected = module(x)
    result = pass_of(name).run(module, None)
    assert forward_of(module) == textwrap.dedent(after).strip()
    assert max(result.counters.values(), default=0) == count and result.modified == (count > 0)
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)


def test_what_one_mode_has_becomes_plain_code() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y * 2 if self.training else y.abs()
        return F.dropout(y, 0.5, training=self.training)

    module = fxprune.trace(network(forward, a=nn.Conv2d(3, 4, 1)), X).eval()
    before = """
        training_1 = self.training
        a = self.a(x)
        training = self.training
        abs_1 = a.abs() if not training_1 else None
        mul = a * 2 if training_1 else None
        select_mode = fxprune_tracing_graphs_modes_select_mode(training_1, mul, abs_1)
        dropout = torch.nn.functional.dropout(select_mode, p = 0.5, training = training, inplace = False)
        return dropout
    """
    after = """
        a = self.a(x)
        abs_1 = a.abs()
        dropout = torch.nn.functional.dropout(abs_1, p = 0.5, training = False, inplace = False)
        return dropout
    """
    assert_rewrites(module.double(), "keep-evaluation", (before, after), 4)


def test_a_model_that_runs_in_training_alone_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return y * 2 if not self.training and bool(y.sum() > 0) else y

    with pytest.raises(fxprune.PruneError, match="pass keep-evaluation: the model runs in training alone"):
        fxprune.optimize(network(forward, a=nn.Conv2d(3, 4, 1)), X)


def test_a_part_that_stays_in_training_keeps_its_branch() -> None:
    """`eval()` of the user's own leaves it in training: so it is read."""
    module = fxprune.trace(network(lambda self, x: x * 2 if self.training else x.abs(), a=nn.Conv2d(3, 4, 1)), X).eval()
    module.training = True
    pass_of("keep-evaluation").run(module, None)
    assert forward_of(module) == "mul = x * 2\nreturn mul"


def test_identities_and_dropout_go() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.drop(self.same(self.a(x)))
        return F.dropout2d(y, 0.5, self.training).relu()

    module = recorded(forward, a=nn.Conv2d(3, 4, 1), same=nn.Identity(), drop=nn.Dropout())
    before = """
        a = self.a(x)
        same = self.same(a)
        drop = self.drop(same)
        dropout2d = torch.nn.functional.dropout2d(drop, p = 0.5, training = False, inplace = False)
        relu = dropout2d.relu()
        return relu
    """
    assert_rewrites(module, "drop-idle", (before, "a = self.a(x)\nrelu = a.relu()\nreturn relu"), 3)
    assert leaves_of(module).startswith("a: Conv2d") and "drop" not in leaves_of(module)


def test_a_dropout_that_is_always_on_stays() -> None:
    module = recorded(lambda self, x: F.dropout(self.a(x), 0.5), a=nn.Conv2d(3, 4, 1))
    assert not pass_of("drop-idle").run(module, None).modified
    assert "dropout" in forward_of(module)


NORM = ("a = self.a(x)\nbn = self.bn(a)\nreturn bn", "a = self.a(x)\nreturn a")
LAYERS = {
    "convolution": nn.Conv2d(3, 4, 3, padding=1, bias=False),
    "reflected": nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "depthwise": nn.Conv2d(3, 6, 3, groups=3),
    "transposed": nn.ConvTranspose2d(3, 4, 2, bias=False),
    "transposed in groups": nn.ConvTranspose2d(3, 6, 2, groups=3),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_is_folded(layer: nn.Conv2d, affine: bool) -> None:
    module = recorded(lambda self, x: self.bn(self.a(x)), a=layer, bn=nn.BatchNorm2d(layer.out_channels, affine=affine))
    assert_rewrites(module, "fold-norms", NORM, 1)
    assert not hasattr(module, "bn") and module.a.bias is not None


def test_a_batch_norm_is_folded_into_a_linear_layer_of_vectors_only() -> None:
    parts = {"a": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}
    module = recorded(lambda self, x: self.bn(self.a(x)), torch.zeros(3, 4), **parts)
    assert_rewrites(module, "fold-norms", NORM, 1, torch.zeros(3, 4))
    parts = {"a": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}
    module = recorded(lambda self, x: self.bn(self.a(x)), torch.zeros(3, 4, 4), **parts)  # its channels are axis 1
    assert not pass_of("fold-norms").run(module, None).modified


def _twice(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    return self.bn(y) + y


def _shared(self: Any, x: Tensor) -> Tensor:
    return self.bn(self.a(x)) + self.a(x.relu())


def _read(self: Any, x: Tensor) -> Tensor:
    return self.bn(self.a(x)) + self.a.weight.sum()


def _in_training(self: Any, x: Tensor) -> Tensor:
    return self.bn(self.a(x))


@pytest.mark.parametrize("forward", [_twice, _shared, _read], ids=["output", "layer", "weight"])
def test_a_batch_norm_stays_where_something_else_is_read(forward: Callable[..., Any]) -> None:
    module = recorded(forward, a=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4))
    assert not pass_of("fold-norms").run(module, None).modified


def test_a_batch_norm_that_normalises_by_the_batch_stays() -> None:
    for bn in (nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4)):
        module = recorded(_in_training, a=nn.Conv2d(3, 4, 1), bn=bn)
        module.bn.training = bn.running_mean is not None
        assert not pass_of("fold-norms").run(module, None).modified


def test_factors_and_summands_of_channels_are_folded() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.a(x) * self.gamma.reshape(1, -1, 1, 1) + self.beta

    module = recorded(forward, a=nn.Conv2d(3, 4, 3), gamma=nn.Parameter(torch.ones(4)), beta=nn.Parameter(torch.zeros(4, 1, 1)))
    before = """
        a = self.a(x)
        gamma = self.gamma
        reshape = gamma.reshape(1, -1, 1, 1)
        mul = a * reshape
        beta = self.beta
        add = mul + beta
        return add
    """
    assert_rewrites(module, "fold-scales", (before, "a = self.a(x)\nreturn a"), 2)


def test_what_writes_stays_when_a_factor_is_folded() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = self.a(x) * self.gain
        z = y.relu()
        z.add_(1)  # the value of which nothing reads
        return z

    module = recorded(forward, a=nn.Conv2d(3, 4, 1), gain=nn.Parameter(torch.randn(4, 1, 1)))
    assert_rewrites(
        module,
        "fold-scales",
        (
            "a = self.a(x)\ngain = self.gain\nmul = a * gain\nrelu = mul.relu()\nadd_ = relu.add_(1)\nreturn relu",
            "a = self.a(x)\nrelu = a.relu()\nadd_ = relu.add_(1)\nreturn relu",
        ),
        1,
    )


def test_a_factor_of_places_stays() -> None:
    module = recorded(lambda self, x: self.a(x) * self.gamma, a=nn.Conv2d(3, 4, 1), gamma=nn.Parameter(torch.ones(4)))
    assert not pass_of("fold-scales").run(module, None).modified


def test_pairs_are_merged_where_that_is_less_work() -> None:
    parts = {"a": nn.Conv2d(3, 8, 3, padding=1), "b": nn.Conv2d(8, 4, 1), "c": nn.Conv2d(4, 4, 1, bias=False)}
    module = recorded(lambda self, x: self.c(self.b(self.a(x))), **parts)
    before = "a = self.a(x)\nb = self.b(a)\nc = self.c(b)\nreturn c"
    assert_rewrites(module, "merge-linear", (before, "a = self.a(x)\nreturn a"), 2)
    assert module.a.out_channels == 4 and not hasattr(module, "b")


PAIRS = {
    "low rank": (nn.Conv2d(3, 1, 1), nn.Conv2d(1, 8, 1)),
    "padded pointwise": (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, padding=1)),
    "strided pointwise": (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, stride=2)),
    "a kernel after": (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, padding=1)),
    "in groups": (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, groups=2)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_pairs_that_stay(pair: tuple[nn.Module, nn.Module]) -> None:
    module = recorded(lambda self, x: self.b(self.a(x)), a=pair[0], b=pair[1])
    assert not pass_of("merge-linear").run(module, None).modified
