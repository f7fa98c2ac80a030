"""Convolutions with a second factor: the same function, the formula by hand, and back again; what stays plain, and why."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxprune
from fxprune.passes import pass_of
from fxprune.passes.base import PassResult
from fxprune.passes.do_conv import OverParameterized, layers_of
from fxprune.recovery.over_parameters import folded_tensors
from fxprune.state import named_tensors

# name -> layer, shape of one input
LAYERS = {
    "plain": (nn.Conv2d(3, 4, 3), (3, 7, 7)),
    "no bias": (nn.Conv2d(3, 4, 3, bias=False), (3, 7, 7)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (6, 7, 7)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (4, 7, 7)),
    "depthwise, twice as many": (nn.Conv2d(4, 8, 3, groups=4), (4, 7, 7)),
    "dilated, strided": (nn.Conv2d(3, 4, 3, stride=2, dilation=2, padding=1), (3, 9, 9)),
    "oblong": (nn.Conv2d(3, 4, (1, 5), padding="same"), (3, 7, 7)),
    "reflected": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 7, 7)),
    "circular": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 7, 7)),
    "one axis": (nn.Conv1d(3, 4, 5), (3, 9)),
    "three axes": (nn.Conv3d(2, 3, (2, 1, 3)), (2, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), (3, 5, 5)),
    "transposed, grouped": (nn.ConvTranspose1d(4, 6, 3, groups=2), (4, 7)),
    "double": (nn.Conv2d(3, 4, 3).double(), (3, 7, 7)),
    "half": (nn.Conv2d(3, 4, 3).bfloat16(), (3, 7, 7)),
    "channels last": (nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), (3, 7, 7)),
}


def moved(model: nn.Module) -> nn.Module:
    """Every parameter of the factors away from where it began."""
    with torch.no_grad():
        for layer in layers_of(model).values():
            layer.W.add_(0.3 * torch.randn(layer.W.shape).to(layer.W))
            layer.D.add_(0.3 * torch.randn(layer.D.shape).to(layer.D))
    return model


def by_hand(layer: OverParameterized, plain: nn.Module) -> Tensor:
    """``K[o, i, m] = sum_s (D_id + D)[i, m, s] W[o, i, s]``, an entry at a time; ``i`` counts all inputs."""
    kernel = torch.zeros(plain.weight.shape, dtype=torch.float64).flatten(2)
    transposed, wide = isinstance(plain, nn.ConvTranspose2d | nn.ConvTranspose1d), plain.in_channels // plain.groups
    for a, b, m in torch.cartesian_prod(*map(torch.arange, kernel.shape)).tolist():
        group = a // (plain.out_channels // plain.groups)
        channel = a if transposed else group * wide + b
        for s in range(layer.D.shape[2]):
            kernel[a, b, m] += ((m == s) + layer.D[channel, m, s].double()) * layer.W[a, b, s].double()
    return kernel.view(plain.weight.shape)


@pytest.mark.parametrize("name", LAYERS)
def test_the_function_stays_and_folds(name: str) -> None:
    layer, shape = copy.deepcopy(LAYERS[name])
    model = nn.Sequential(layer).eval()
    before = copy.deepcopy(model)
    x = torch.randn(2, *shape).to(layer.weight)
    wide = fxprune.over_parameterize(model)
    assert torch.equal(wide(x), model(x)) and type(wide[0]).__name__ == f"DO{type(layer).__name__}"
    assert all(map(torch.equal, model.state_dict().values(), before.state_dict().values())) and type(model[0]) is type(layer)
    assert not wide.training and wide[0].D.shape == (layer.in_channels, layer.weight[0, 0].numel(), layer.weight[0, 0].numel())
    assert wide.state_dict().keys() == {"0.W", "0.D", *(k for k in model.state_dict() if k != "0.weight")}

    moved(wide)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float64: 1e-12}[layer.weight.dtype]
    assert torch.allclose(wide[0].weight.double(), by_hand(wide[0], layer), rtol=0, atol=tolerance)
    assert (wide(x) - model(x)).abs().max() > 0.05  # what was learnt counts
    folded = fxprune.fold(wide)
    assert type(folded[0]) is type(layer) and str(folded) == str(model)
    assert torch.equal(folded(x), wide(x))
    for (n, one), (m, two) in zip(folded.named_parameters(), model.named_parameters(), strict=True):
        assert (n, one.shape, one.dtype, one.stride(), one.requires_grad) == (m, two.shape, two.dtype, two.stride(), True)
    assert vars(folded[0]).keys() == vars(model[0]).keys()
    assert folded_tensors(wide).keys() == named_tensors(model).keys()
    assert all(torch.equal(folded_tensors(wide)[k], t) for k, t in named_tensors(folded).items())


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose1d(4, 6, 3)])
def test_a_wider_second_factor(layer: nn.Module) -> None:
    """The columns that are more compute nothing at first, and can be learnt."""
    shape = (2, 4, 7, 7)[: layer.weight.dim()]
    wide = fxprune.over_parameterize(nn.Sequential(layer), d_mul=11)
    places = layer.weight[0, 0].numel()
    assert wide[0].W.shape[2] == wide[0].D.shape[2] == 11 and wide[0].W[..., places:].abs().min() > 0
    x = torch.randn(shape)
    assert torch.equal(wide(x), layer(x))
    again = fxprune.over_parameterize(nn.Sequential(layer), d_mul=11)
    other = fxprune.over_parameterize(nn.Sequential(layer), d_mul=11, seed=1)
    assert torch.equal(wide[0].W, again[0].W) and not torch.equal(wide[0].W, other[0].W)
    wide(x).square().sum().backward()
    assert wide[0].D.grad[..., places:].abs().min() > 0
    moved(wide)
    assert torch.allclose(wide[0].weight.double(), by_hand(wide[0], layer), atol=1e-5)


def test_both_factors_learn() -> None:
    wide = fxprune.over_parameterize(nn.Sequential(nn.Conv2d(2, 3, 3)))
    wide(torch.randn(2, 2, 5, 5)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in wide.parameters()) and len([*wide.parameters()]) == 3


def test_autocast_does_not_round_the_kernel() -> None:
    wide = moved(fxprune.over_parameterize(nn.Sequential(nn.Conv2d(2, 3, 3))))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(wide[0].weight, fxprune.fold(wide)[0].weight)
        assert torch.equal(wide(torch.ones(1, 2, 5, 5)), fxprune.fold(wide)(torch.ones(1, 2, 5, 5)))


class Shared(nn.Module):
    """One layer under two names and in a list, a kernel that a function reads, one that is tied, one that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 2, 3, padding=1)
        self.two = self.one
        self.parts = [self.one]
        self.tied, self.tie = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.tie.weight = self.tied.weight
        self.frozen = nn.Conv2d(2, 2, 3, padding=1)
        self.frozen.weight.requires_grad_(False)
        self.normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3, padding=1))
        self.function = nn.Conv2d(2, 2, 3, padding=1)
        self.point = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.parts[0](self.two(self.one(x)))
        x = self.normed(self.frozen(self.tie(self.tied(x))))
        return self.point(F.conv2d(x, self.function.weight, padding=1))


def test_what_stays_plain_is_said() -> None:
    model, x = Shared(), torch.randn(1, 2, 6, 6)
    wide = fxprune.over_parameterize(model)
    assert wide.meta["over_parameterized"] == {
        "layers": {"one": 9, "function": 9},
        "left": {
            "tied": "its weight is tied: tied.weight and tie.weight are one tensor",
            "tie": "its weight is tied: tied.weight and tie.weight are one tensor",
            "frozen": "its weight is not trained",
            "normed": "its weight is computed from other tensors",
            "point": "its kernel has one place, and needs no second factor",
        },
    }
    assert wide.one is wide.two is wide.parts[0] and torch.equal(wide(x), model(x))
    folded = fxprune.fold(moved(wide))  # a kernel that a function reads is that of the factors, too
    assert folded.two is folded.parts[0] and torch.equal(folded(x), wide(x)) and not torch.equal(folded(x), model(x))
    assert "over_parameterized" not in folded.meta


class Penalised(nn.Module):
    """Calls a layer, and reads its kernel beside that."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.free, self.function = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.free(self.read(x)) + self.read.weight.square().sum()
        return F.conv2d(x, self.function.weight)


def test_a_graph_that_reads_a_kernel_keeps_it() -> None:
    graph, x = fx.symbolic_trace(Penalised()), torch.randn(1, 2, 7, 7)
    wide = fxprune.over_parameterize(nn.Sequential(graph))
    assert wide.meta["over_parameterized"] == {
        "layers": {"0.free": 9},
        "left": {"0.read": "its weight is read outside of the layer", "0.conv2d": "it is a call of a function, not a layer"},
    }
    assert torch.equal(wide(x), graph(x))


class Own(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight.std())


def test_a_subclass_with_the_forward_of_torch_is_taken_and_another_is_not() -> None:
    named = type("Named", (nn.Conv2d,), {"tag": "mine"})
    model = nn.Sequential(named(2, 2, 3), Own(2, 2, 3), nn.Conv2d(2, 2, 3))
    model[2].W = 3
    wide = fxprune.over_parameterize(model)
    assert [*wide.meta["over_parameterized"]["layers"]] == ["0"] and wide[0].tag == "mine" and isinstance(wide[0], named)
    assert wide.meta["over_parameterized"]["left"] == {
        "1": "its forward is not that of torch.nn",
        "2": "it has attributes of the names that the factors take",
    }
    assert type(fxprune.fold(wide)[0]) is named
    shadowed = nn.Sequential(nn.Conv2d(2, 2, 3))
    shadowed[0].forward = lambda x: x
    with pytest.raises(fxprune.InputError, match=r"its forward is not that of torch.nn"):
        fxprune.over_parameterize(shadowed)


def test_hooks_stay() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3))
    model[0].register_forward_hook(lambda layer, args, output: output + 1)
    x = torch.randn(1, 2, 5, 5)
    wide = fxprune.over_parameterize(model)
    assert torch.equal(wide(x), model(x)) and torch.equal(fxprune.fold(wide)(x), model(x))


def test_state_dicts_go_both_ways() -> None:
    model, x = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 2, 3)), torch.randn(1, 4, 7, 7)
    wide = fxprune.over_parameterize(model, d_mul=10)
    trained = moved(copy.deepcopy(wide))
    wide.load_state_dict(trained.state_dict())
    assert torch.equal(wide(x), trained(x))
    model.load_state_dict(fxprune.fold(wide).state_dict())
    assert torch.equal(model(x), trained(x))
    other = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 2, 3))
    trained.load_state_dict(other.state_dict())
    assert torch.equal(trained(x), other(x)) and not trained[0].D.any()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*0\.weight"):
        trained.load_state_dict(nn.Sequential(nn.Conv2d(4, 4, 5), nn.ConvTranspose2d(4, 2, 3)).state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*0\.weight"):
        model.load_state_dict(wide.state_dict())


def test_a_pruned_model_keeps_its_report_and_is_folded_before_it_is_written(tmp_path) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.zeros(2, 3, 8, 8)
    slim = fxprune.prune(model, 0.5, x)
    wide = moved(fxprune.over_parameterize(slim))
    assert isinstance(wide, fx.GraphModule) and wide.meta["fxprune"] is slim.meta["fxprune"]
    assert wide.graph is not slim.graph and type(slim.get_submodule("0")) is nn.Conv2d
    for refused in (lambda: fxprune.save(wide, tmp_path), lambda: fxprune.repair(wide, model, x)):
        with pytest.raises(fxprune.InputError, match=r"'0' is over-parameterised, and .*: fold the model first, fxprune.fold"):
            refused()
    folded = fxprune.fold(wide)
    assert folded.meta == slim.meta and not list(tmp_path.iterdir())
    again = fxprune.load(fxprune.save(folded, tmp_path / "slim"))
    y = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(y), wide(y)) and not torch.equal(wide(y), slim(y))
    cost = fxprune.analyze(folded, x), fxprune.analyze(slim, x)
    assert (cost[0].macs(), cost[0].params()) == (cost[1].macs(), cost[1].params())


def test_channels_of_factors_can_be_pruned() -> None:
    """An input channel that goes takes columns of W and rows of D with it, an output channel rows of W."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    wide = moved(fxprune.over_parameterize(model.eval()))
    slim = fxprune.prune(wide, 0.5, torch.zeros(2, 3, 8, 8), scope="layer")
    shapes = {name: tuple(p.shape) for name, p in slim.named_parameters()}
    assert shapes["0.W"] == (4, 3, 9) and shapes["2.W"] == (4, 4, 9) and shapes["2.D"] == (4, 9, 9)
    assert slim.meta["fxprune"].checks.passed


def test_what_cannot_be_done_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Linear(2, 2))
    with pytest.raises(
        fxprune.InputError, match=r"no convolution that can be over-parameterised \(0: its kernel has one place"
    ):
        fxprune.over_parameterize(model)
    with pytest.raises(fxprune.InputError, match=r"no convolution that can be over-parameterised$"):
        fxprune.over_parameterize(nn.Linear(2, 2))
    with pytest.raises(fxprune.InputError, match="model must be an nn"):
        fxprune.over_parameterize("model")
    with pytest.raises(fxprune.InputError, match="model must be an nn"):
        fxprune.fold(3)
    conv = nn.Sequential(nn.Conv2d(2, 2, 3))
    with pytest.raises(fxprune.InputError, match="d_mul must be at least 9, the places of the kernel of '0', not 8"):
        fxprune.over_parameterize(conv, d_mul=8)
    for d_mul in (0, 9.5, True, "9"):
        with pytest.raises(fxprune.InputError, match="d_mul must be a whole number"):
            fxprune.over_parameterize(conv, d_mul=d_mul)
    with pytest.raises(fxprune.InputError, match="'0' is over-parameterised already"):
        fxprune.over_parameterize(fxprune.over_parameterize(conv))
    lazy = nn.Sequential(nn.LazyConv2d(2, 3))
    with pytest.raises(fxprune.InputError, match="its weight has no shape yet"):
        fxprune.over_parameterize(lazy)
    assert fxprune.fold(conv)[0] is not conv[0]  # nothing to fold: a copy


def test_the_passes_count() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3))
    assert pass_of("over-parameterize").run(model) == PassResult.of(layers_over_parameterized=2)
    assert pass_of("fold-factors").run(model) == PassResult.of(layers_folded=2)
    assert not pass_of("fold-factors").run(model).modified
