"""`fxprune.repair`: least squares layer by layer, batch norms, what is held back, and what is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.planning.repaired import Repaired
from fxprune.recovery.repair.moments import Moments
from fxprune.recovery.repair.norms import Spread, distance, matched
from fxprune.recovery.repair.patches import as_matrix, as_weight, drawn, outputs_at, patches_at, positions
from fxprune.recovery.repair.shelf import Shelf

torch.set_num_threads(1)


def found_of(slim: nn.Module) -> Repaired:
    found = slim.meta["fxprune"].repair  # type: ignore[index, union-attr]
    assert isinstance(found, Repaired)
    return found


def error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


# -- rows: what a layer computes, as a product of matrices -----------------------------------------------------------------

LAYERS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("linear", lambda: nn.Linear(6, 4), (3, 5, 6)),
    ("conv1d", lambda: nn.Conv1d(4, 6, 3, 2, 1), (2, 4, 9)),
    ("conv2d", lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (2, 1)), (2, 4, 9, 8)),
    ("conv3d", lambda: nn.Conv3d(2, 3, 2, 1, 1), (2, 2, 4, 4, 4)),
    ("grouped", lambda: nn.Conv2d(6, 9, 3, padding=1, groups=3), (2, 6, 5, 5)),
    ("depthwise", lambda: nn.Conv2d(6, 12, 3, groups=6, bias=False), (2, 6, 5, 5)),
    ("same", lambda: nn.Conv2d(2, 3, 4, padding="same", dilation=2), (2, 2, 8, 8)),
    ("valid", lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 2, 8, 8)),
    ("circular", lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), (2, 2, 6, 6)),
    ("one image", lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
    ("transposed", lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1), (2, 4, 5, 5)),
    ("transposed, grouped", lambda: nn.ConvTranspose2d(4, 6, (4, 3), (2, 1), (1, 0), groups=2, dilation=(1, 2)), (2, 4, 5, 5)),
    ("transposed 1d", lambda: nn.ConvTranspose1d(3, 2, 5, 3, bias=False), (2, 3, 7)),
]


@pytest.mark.parametrize(("make", "shape"), [case[1:] for case in LAYERS], ids=[case[0] for case in LAYERS])
def test_rows_times_the_matrix_are_what_the_layer_puts_out(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(shape).double()
    convolution = None if isinstance(layer, nn.Linear) else layer
    y = layer(x).detach()
    weight: Any = layer.weight
    matrix = as_matrix(convolution, weight.detach())
    sizes = positions(convolution, y)
    chosen = drawn(sizes, 11, torch.Generator().manual_seed(1))
    rows = patches_at(convolution, x, sizes, chosen)
    got = torch.einsum("ngd,gdo->ngo", rows, matrix).flatten(1) + (0 if layer.bias is None else layer.bias)  # type: ignore[operator]
    assert torch.allclose(got, outputs_at(convolution, y, chosen), atol=1e-12)
    assert torch.equal(as_weight(convolution, matrix, weight), weight)
    assert len(set(chosen.tolist())) == min(11, math.prod(sizes))


def test_a_convolution_whose_padding_was_set_later() -> None:
    layer, x = nn.Conv2d(2, 3, 3), torch.randn(2, 2, 6, 6)
    layer.padding = (1, 1)
    y = layer(x).detach()
    sizes = positions(layer, y)
    rows = patches_at(layer, x, sizes, torch.arange(72))
    got = torch.einsum("ngd,gdo->ngo", rows, as_matrix(layer, layer.weight.detach())).flatten(1) + layer.bias
    assert torch.allclose(got, outputs_at(layer, y, torch.arange(72)), atol=1e-5)


# -- sums ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "normed"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_fit_is_that_of_the_rows_themselves(bias: bool, normed: bool) -> None:
    """Against ridge regression on all rows at once, group by group, and the errors against predictions."""
    torch.manual_seed(0)
    x, r, y = torch.randn(60, 2, 5) + 3, torch.randn(60, 2, 4) + 1, torch.randn(60, 2, 4)
    sums = Moments(bias, normed)
    for part in range(0, 60, 25):
        sums.add(x[part : part + 25], r[part : part + 25], y[part : part + 25])
    change = sums.solve(0.1)
    assert change is not None and (change.bias is not None) == bias
    x, r, y = x.double(), r.double(), y.double()
    total = none = 0.0
    for g in range(2):
        a, b = x[:, g], r[:, g]
        ca, cb = (a - a.mean(0), b - b.mean(0)) if bias or normed else (a, b)
        gram = ca.T @ ca
        expected = torch.linalg.solve(gram + 0.1 * gram.diagonal().mean() * torch.eye(5).double(), ca.T @ cb)
        assert torch.allclose(change.weight[g], expected, atol=1e-10)
        rest = b - a @ expected
        if change.bias is not None:
            assert torch.allclose(change.bias[g], rest.mean(0), atol=1e-10)
            rest = rest - change.bias[g]
        total += float(((rest - rest.mean(0)) if normed else rest).square().sum())
        none += float((b - b.mean(0) if normed else b).square().sum())
    assert sums.error(change) == pytest.approx(total, rel=1e-9) and sums.error(None) == pytest.approx(none, rel=1e-9)
    assert sums.spread == pytest.approx(float((y - y.mean(0)).square().sum()))


def test_inputs_that_are_always_zero_or_alike_leave_finite_weights() -> None:
    x = torch.randn(40, 1, 1).expand(40, 1, 6).clone()
    for rows in (x, torch.zeros_like(x)):
        sums = Moments(True, False)
        sums.add(rows, torch.randn(40, 1, 3), torch.randn(40, 1, 3))
        change = sums.solve(1e-3)
        assert change is not None and bool(torch.isfinite(change.weight).all())
    assert not Moments(True, False).finite


# -- exactness -------------------------------------------------------------------------------------------------------------


def mix(layer: Any) -> None:
    """Make the second half of a layer's output channels mixtures of the first half."""
    half = layer.weight.shape[0] // 2
    shares = torch.rand(half, half)
    with torch.no_grad():
        layer.weight[half:] = torch.einsum("ab,b...->a...", shares, layer.weight[:half])
        if layer.bias is not None:
            layer.bias[half:] = shares @ layer.bias[:half]


def without(model: nn.Module, x: Tensor, group: str, channels: list[int]) -> Any:
    """`model` less some channels of one group."""
    plan = fxprune.plan(model, 0.5, x, max_ratio=1)
    for entry in plan.groups:
        entry.kept = [c for c in range(entry.size) if entry.id != group or c not in channels]
    analysis = fxprune.analyze(model, x)
    cut = analysis.cut(plan.gone(analysis.free))
    plan.kept = {name: {axis: ids.tolist() for axis, ids in axes.items()} for name, axes in cut.tensors.items()}
    return fxprune.apply(model, plan)


NETS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 3)), (200, 12)),
    "without bias": (lambda: nn.Sequential(nn.Linear(12, 8, bias=False), nn.Linear(8, 3, bias=False)), (200, 12)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, 2, 1)), (60, 3, 8, 8)),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 3, 2, 1)), (60, 3, 8, 8)),
    "one dimension": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 3)), (60, 3, 12)),
    "flattened": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 9, 5)), (700, 3, 5, 5)),
}


@pytest.mark.parametrize("name", NETS)
def test_channels_that_are_mixtures_of_kept_ones_are_made_up_for(name: str) -> None:
    torch.manual_seed(0)
    make, shape = NETS[name]
    model, x = make().eval(), torch.randn(shape)
    mix(model[0])
    slim = without(model, x[:2], "0.weight", [4, 5, 6, 7])
    fixed = fxprune.repair(slim, model, x, ridge=1e-10)
    other = torch.randn(shape)[:50]
    assert error(slim(other), model(other)) > 0.05
    assert error(fixed(other), model(other)) < 1e-5
    assert [(s.kind, s.kept) for s in found_of(fixed).sites] == [("layer", "")]


def test_a_grouped_convolution_is_fitted_group_by_group() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 1)
            self.second = nn.Conv2d(8, 6, 3, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    model, x = Net().eval(), torch.randn(80, 3, 8, 8)
    with torch.no_grad():  # in each group of four, the last two are the first two
        for part in (model.first.weight, model.first.bias):
            part[2:4], part[6:8] = 2 * part[0:2], -part[4:6]  # type: ignore[index]
    slim = without(model, x[:2], "first.weight", [2, 3])
    assert slim.get_submodule("second").groups == 2
    fixed = fxprune.repair(slim, model, x, ridge=1e-10)
    assert error(slim(x), model(x)) > 0.05
    assert error(fixed(x), model(x)) < 1e-5


def test_a_layer_that_does_not_lose_inputs_keeps_its_weights() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(100, 6)
    slim = without(model, x[:2], "0.weight", [1, 2])
    fixed = fxprune.repair(slim, model, x)
    assert [site.name for site in found_of(fixed).sites] == ["2"]
    same = {n: torch.equal(t, dict(fixed.named_parameters())[n]) for n, t in slim.named_parameters()}
    assert {n for n, equal in same.items() if not equal} == {"2.weight", "2.bias"}


# -- batch norms -----------------------------------------------------------------------------------------------------------


def test_matched_statistics_give_the_dense_mean_and_variance() -> None:
    """Against what the norms of PyTorch put out, directly; a channel that never varies is only shifted."""
    torch.manual_seed(0)
    dense, slim = torch.randn(50, 4, 3, 3) * 3 + 1, torch.randn(50, 4, 3, 3) * 0.5 - 2
    slim[:, 3] = 7.0
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean.copy_(torch.randn(4))  # type: ignore[union-attr]
    norm.running_var.copy_(torch.rand(4) + 0.5)  # type: ignore[union-attr]
    norm.weight.data, norm.bias.data = torch.randn(4), torch.randn(4)
    expected = norm(dense).detach()
    a, b = Spread(), Spread()
    for part in range(0, 50, 20):
        a.add(dense[part : part + 20])
        b.add(slim[part : part + 20])
    assert torch.allclose(a.mean, dense.double().mean((0, 2, 3))) and torch.allclose(
        b.var, slim.double().var((0, 2, 3), correction=0)
    )
    running = (norm.running_mean.double().clone(), norm.running_var.double().clone())  # type: ignore[union-attr]
    new = matched(a, b, running, norm.eps, "match")
    assert distance(norm, a, b, running, new) < distance(norm, a, b, running, running)
    for ours, given in ((norm.running_mean, new[0]), (norm.running_var, new[1])):
        ours.copy_(given)  # type: ignore[union-attr]
    got = norm(slim).detach()
    assert torch.allclose(got.mean((0, 2, 3)), expected.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(got[:, :3].var((0, 2, 3)), expected[:, :3].var((0, 2, 3)), rtol=1e-4)
    again = matched(a, b, running, norm.eps, "recalibrate")
    assert torch.allclose(again[0], b.mean) and torch.allclose(again[1], b.var)


class Residual(nn.Module):
    """A stem, two blocks of two convolutions with batch norms, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList(self.block() for _ in range(2))
        self.head = nn.Linear(8, 5)

    def block(self) -> nn.Sequential:
        ends = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.Conv2d(12, 8, 3, padding=1, bias=False)
        return nn.Sequential(ends[0], nn.BatchNorm2d(12), nn.ReLU(inplace=True), ends[1], nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu_()
        for block in self.blocks:
            x = (block(x) + x).relu()
        return self.head(x.mean((2, 3)))


def residual() -> tuple[nn.Module, Tensor]:
    """A network whose running statistics are those of its images."""
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(120, 3, 6, 6) + torch.randn(120, 3, 1, 1)
    with torch.no_grad():
        for _ in range(20):
            model.train()(x)
    return model.eval(), x


def test_a_residual_network_is_repaired_and_nothing_else_changes() -> None:
    model, x = residual()
    slim = fxprune.prune(model, 0.4, x[:2], scope="layer").train()
    before = [copy.deepcopy(m.state_dict()) for m in (model, slim)]
    fixed = fxprune.repair(slim, model, x[:100], seed=3)
    for module, state in zip((model, slim), before, strict=True):
        assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    assert fixed.training and fixed.get_submodule("norm").training and slim.training and not model.training
    assert slim.meta["fxprune"].repair is None and type(fixed).__mro__[1:] == type(slim).__mro__[1:]
    found = found_of(fixed)
    assert found.images == (80, 20) and found.after < found.before and not found.kept
    assert {s.name for s in found.sites if s.kind == "norm"} >= {"blocks.0.1", "blocks.1.4"}
    assert all(s.after < s.before for s in found.repaired) and len(found.repaired) >= 5
    slim.eval(), fixed.eval()
    assert error(fixed(x[100:]), model(x[100:])) < 0.8 * error(slim(x[100:]), model(x[100:]))
    again = fxprune.repair(slim, model, x[:100], seed=3)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), fixed.state_dict().values(), strict=True))
    plain = fxprune.repair(slim, model, x[:100], norms="keep")
    assert not any(s.kind == "norm" for s in found_of(plain).sites)
    assert torch.equal(plain.get_buffer("norm.running_mean"), slim.get_buffer("norm.running_mean"))


def test_the_error_of_the_output_is_the_one_of_the_images_held_back() -> None:
    """Of 100 images in parts of 20, those from 20 to 39."""
    model, x = residual()
    slim = fxprune.prune(model, 0.4, x[:2])
    found = found_of(fixed := fxprune.repair(slim, model, x[:100]))
    with torch.no_grad():
        y = model(x[20:40])
        for module, expected in ((slim, found.before), (fixed, found.after)):
            share = (module(x[20:40]) - y).square().sum() / (y - y.mean()).square().sum()
            assert expected == pytest.approx(float(share), rel=1e-4)


def test_values_beyond_the_memory_go_to_files_and_nothing_changes() -> None:
    """In-place operators and all."""
    model, x = residual()
    slim = fxprune.prune(model, 0.4, x[:2])
    ample, scarce = fxprune.repair(slim, model, x), fxprune.repair(slim, model, x, memory=0)
    assert all(torch.equal(a, b) for a, b in zip(ample.state_dict().values(), scarce.state_dict().values(), strict=True))


def test_stored_values_share_memory_as_they_did(tmp_path: Any) -> None:
    node: Any = torch.fx.Graph().placeholder("x")
    other: Any = node.graph.placeholder("y")
    weight, value = nn.Parameter(torch.ones(3)), torch.arange(12.0).reshape(3, 4)
    shelf = Shelf(limit=0)
    shelf.put(("walk", 0), {node: (value, weight), other: [value.T[1:], 3]}, {weight.untyped_storage().data_ptr()})
    assert shelf.stored == 1 and shelf.held == 0
    env = shelf.take(("walk", 0))
    assert torch.equal(env[node][0], value) and env[node][1] is weight and env[other][1] == 3
    env[node][0][0, 1] = 50.0
    assert env[other][0][0, 0] == 50.0 and value[0, 1] == 1.0
    roomy = Shelf(limit=48)
    roomy.put(("walk", 0), {node: value, other: value.T})
    assert roomy.held == 48 and roomy.take(("walk", 0))[node] is value and roomy.held == 0


# -- other networks --------------------------------------------------------------------------------------------------------


class Mixer(nn.Module):
    """Attention and an MLP between layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.first, self.second = nn.Linear(8, 16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.second(x))
        return self.head(x.mean(1))


class Groups(nn.Module):
    """Group norms, a depthwise and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.SiLU(),
            nn.Conv2d(16, 12, 1), nn.GroupNorm(1, 12), nn.ReLU(), nn.ConvTranspose2d(12, 6, 2, 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


@pytest.mark.parametrize(("kind", "shape"), [(Mixer, (150, 5, 8)), (Groups, (100, 8, 6, 6))])
def test_networks_without_batch_norms(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(shape)
    slim = fxprune.prune(model, 0.4, x[:2], scope="layer")
    fixed = fxprune.repair(slim, model, x[:-30])
    found = found_of(fixed)
    assert found.after < found.before and {s.kind for s in found.sites} == {"layer"}
    assert error(fixed(x[-30:]), model(x[-30:])) < 0.9 * error(slim(x[-30:]), model(x[-30:]))
    names = {site.name for site in found.repaired}
    assert names >= ({"attention.out_proj.weight", "mlp.2"} if kind is Mixer else {"parts.5", "parts.8"})


# -- what is held back, and what is refused --------------------------------------------------------------------------------


def linear(inputs: int = 6) -> tuple[nn.Module, Any, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 3)), torch.randn(200, inputs)
    return model, fxprune.prune(model, 0.5, x[:2]), x


def test_a_layer_that_does_worse_on_images_held_back_keeps_its_weights() -> None:
    """The images that are held back are others than those it learns from."""
    model, slim, x = linear()
    x = x[:10].clone()
    x[2:4] += 100
    fixed = fxprune.repair(slim, model, x, ridge=1e-9)
    (site,) = found_of(fixed).sites
    assert "held back" in site.kept and site.before == site.after
    assert all(torch.equal(a, b) for a, b in zip(fixed.parameters(), slim.parameters(), strict=True))


def test_a_model_whose_output_does_worse_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, slim, x = linear()
    monkeypatch.setattr("fxprune.recovery.repair.repairing.Repairing.output_errors", lambda self: (0.1, 0.2))
    fixed = fxprune.repair(slim, model, x)
    found = found_of(fixed)
    assert "from 0.1 to 0.2" in found.kept and found.before == found.after == 0.1 and not found.repaired
    assert "not repaired" in str(fixed.meta["fxprune"])
    assert fixed is not slim and all(torch.equal(a, b) for a, b in zip(fixed.parameters(), slim.parameters(), strict=True))


@pytest.mark.parametrize("count", [2, 5, 9])
def test_few_images_do_no_harm(count: int) -> None:
    model, slim, x = linear(40)
    found = found_of(fixed := fxprune.repair(slim, model, x[:count]))
    assert sum(found.images) == count and found.images[1] > 0 and found.after <= found.before
    assert all(bool(torch.isfinite(p).all()) for p in fixed.parameters())


def test_batches_of_any_form() -> None:
    model, slim, x = linear()
    labels = torch.zeros(20, dtype=torch.long)

    def generated() -> Iterator[Any]:
        yield from ((part, labels) for part in x.split(20))

    weights = [
        fxprune.repair(slim, model, images).state_dict()["2.weight"]
        for images in (list(x.split(20)), generated(), [{"input": part} for part in x.split(20)])
    ]
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    assert found_of(fxprune.repair(slim, model, [(x[:9], labels[:9])])).images == (7, 2)
    assert found_of(fxprune.repair(slim, model, x[:150])).images == (120, 30)


def test_what_cannot_be_repaired_is_refused_in_a_sentence() -> None:
    model, slim, x = linear()
    bad = x.clone()
    bad[3, 2] = float("nan")
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((model, model, x), {}, "slim must be what"),
        ((slim, nn.Linear(6, 3), x), {}, "not made from a model like this one"),
        ((slim, model, bad), {}, "NaN or infinite"),
        ((slim, model, x[:1]), {}, "fewer than two"),
        ((slim, model, []), {}, "fewer than two"),
        ((slim, model, 3), {}, "images must be a tensor"),
        ((slim, model, "images"), {}, "images must be a tensor"),
        ((slim, model, torch.randn(20, 7)), {}, "failed on a batch"),
        ((slim, model, x), {"ridge": 0}, "ridge must be"),
        ((slim, model, x), {"norms": "fold"}, "norms must be"),
        ((slim, model, x), {"positions": 0}, "positions must be"),
        ((slim, model, x), {"memory": -1}, "memory must be"),
        ((slim, model, x), {"seed": -1}, "seed must be"),
    ]
    for given, options, words in cases:
        with pytest.raises(fxprune.InputError, match=words):
            fxprune.repair(*given, **options)


def test_values_that_are_not_finite_inside_leave_the_layer_alone() -> None:
    """The images are fine, and so is what comes out."""
    torch.manual_seed(0)

    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x).exp()).nan_to_num().tanh())

    model, x = Bounded(), torch.randn(50, 4)
    x[0] = 1e30
    fixed = fxprune.repair(fxprune.prune(model, 0.4, x[:2], scope="layer", verify=False), model, x)
    found = {site.name: site for site in found_of(fixed).sites}
    assert "not finite" in found["b"].kept and not found["c"].kept
    assert all(bool(torch.isfinite(p).all()) for p in fixed.parameters())


def test_the_report_is_shown_and_written() -> None:
    model, slim, x = linear()
    report = fxprune.repair(slim, model, x).meta["fxprune"]
    document = report.to_dict()["repair"]
    assert document["images"] == [160, 40]
    assert document["sites"][0]["name"] == "2" and document["options"]["ridge"] == 1e-3
    assert "repaired 1 layers and 0 norms" in str(report) and report.seconds["repair"] > 0
    assert slim.meta["fxprune"].to_dict()["repair"] is None


def test_prune_repairs_at_once() -> None:
    model, slim, x = linear()
    fixed = fxprune.prune(model, 0.5, x[:2], repair=x, criterion="l2")
    assert torch.equal(fixed.state_dict()["2.weight"], fxprune.repair(slim, model, x).state_dict()["2.weight"])
    assert fixed.meta["fxprune"].checks.passed and fixed.meta["fxprune"].repair.after < fixed.meta["fxprune"].repair.before
    for given, words in (({"repair": 5}, "repair must be images"), ({"repair": x, "submodules": "0"}, "as one graph")):
        with pytest.raises(fxprune.InputError, match=words):
            fxprune.prune(model, 0.5, x[:2], **given)
