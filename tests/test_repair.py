"""`fxprune.repair`: exact where it can be, batch norms, and networks of several kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.planning.repaired import Repaired
from fxprune.recovery.repair.norms import Spread, distance, matched
from fxprune.recovery.repair.shelf import Shelf

torch.set_num_threads(1)


def found_of(slim: nn.Module) -> Repaired:
    found = slim.meta["fxprune"].repair  # type: ignore[index, union-attr]
    assert isinstance(found, Repaired)
    return found


def error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


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
