"""What `fxprune.repair` reaches: layers as functions, several calls, many inputs; and what it says of the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.planning.repaired import Repaired
from fxprune.recovery.repair.moments import Moments
from fxprune.recovery.repair.wide import Wide

torch.set_num_threads(1)


def repaired(model: nn.Module, x: Tensor, **options: Any) -> tuple[Any, Repaired, float]:
    """The repaired model, its report, and its error on images that it did not see, as a share of the unrepaired one's."""
    slim = fxprune.prune(model, 0.5, x[:2], scope="layer", **options)
    fixed = fxprune.repair(slim, model, x[:-40])
    with torch.no_grad():
        y = model(x[-40:])
        before, after = ((net(x[-40:]) - y).square().sum() for net in (slim, fixed))
    return fixed, fixed.meta["fxprune"].repair, float(after / before)


class Written(nn.Module):
    """Two layers, the second as a function of parameters."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        plain = kind.startswith("conv")
        self.first = nn.Conv2d(3, 12, 3, padding=1) if plain else nn.Linear(5, 12)
        sizes = {"conv2d": (4, 12, 3, 3), "conv2d, grouped": (4, 6, 3, 3), "conv_transpose2d": (12, 4, 2, 2), "linear": (4, 12)}
        self.weight = nn.Parameter(torch.randn(sizes.get(kind, (12, 4))) / 4)
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        if self.kind == "conv2d":
            return F.conv2d(x, self.weight, self.bias, 2, padding=(1, 0))
        if self.kind == "conv2d, grouped":
            return torch.conv2d(x, self.weight, self.bias, padding="same", groups=2)
        if self.kind == "conv_transpose2d":
            return F.conv_transpose2d(x, self.weight, bias=self.bias, stride=2)
        if self.kind == "linear":
            return F.linear(bias=self.bias, weight=self.weight, input=x)
        if self.kind == "addmm":  # as Conv1D of transformers has it
            return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).reshape(*x.shape[:-1], 4)
        if self.kind == "addmm by name":
            rows = torch.addmm(self.bias, mat1=x.flatten(0, -2), mat2=self.weight)
            return rows.unflatten(0, x.shape[:-1])
        return {"@": lambda: x @ self.weight, "matmul": lambda: torch.matmul(x, self.weight)}[self.kind]()


@pytest.mark.parametrize(
    "kind", ["conv2d", "conv2d, grouped", "conv_transpose2d", "linear", "addmm", "addmm by name", "@", "matmul"]
)
def test_layers_that_are_functions(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(240, 3, 6, 6) if kind.startswith("conv") else torch.randn(240, 3, 5)
    _, found, share = repaired(Written(kind), x)
    assert share < 0.8 and not found.left
    assert [site.name for site in found.repaired] == ["weight"]


def test_the_fit_of_a_function_is_that_of_the_layer() -> None:
    torch.manual_seed(0)
    model, x = Written("conv2d"), torch.randn(100, 3, 6, 6)
    layer: Any = nn.Sequential(model.first, nn.ReLU(), nn.Conv2d(12, 4, 3, 2, (1, 0)))
    layer[2].weight, layer[2].bias = model.weight, model.bias
    one, other = repaired(model, x)[0], repaired(layer, x)[0]
    assert torch.equal(one.weight, other.get_parameter("2.weight")) and torch.equal(one.bias, other.get_parameter("2.bias"))


# -- several calls -----------------------------------------------------------------------------------------------------


class Several(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.d = nn.Linear(16, 16)
        if kind == "tied":
            self.d.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).tanh()).tanh()
        if self.kind == "function":
            x = F.linear(x, self.b.weight, self.b.bias).tanh()
        elif self.kind == "turned":
            x = (x @ self.b.weight).tanh()
        else:
            x = (self.d if self.kind == "tied" else self.b)(x).tanh()
        return self.c(x)


@pytest.mark.parametrize("kind", ["module", "function"])
def test_a_layer_that_runs_twice_is_fitted_to_both_calls(kind: str) -> None:
    """Against ridge regression on the rows of both."""
    torch.manual_seed(0)
    model, x = Several(kind), torch.randn(300, 6)
    slim = fxprune.prune(model, 0.5, x[:2], scope="layer")
    fixed = fxprune.repair(slim, model, x[:250])
    found = fixed.meta["fxprune"].repair
    assert [site.name for site in found.repaired] == ["b", "c"] and found.after < 0.7 * found.before and not found.left

    kept = slim.meta["fxprune"].plan.kept["b.weight"]
    learned = torch.cat([part for number, part in enumerate(x[:250].split(50)) if number != 1])  # as chunks_of parts them
    with torch.no_grad():
        first = model.a(learned).tanh()
        ys = [model.b(first), model.b(model.b(first).tanh())]
        own = slim.get_submodule("b")
        small = slim.get_submodule("a")(learned).tanh()
        xs = [small, own(small).tanh()]
        rows, wanted = torch.cat(xs).double(), torch.cat([y[:, kept[0]] for y in ys]).double()
        weight = own.weight.double()
        rest = wanted - rows @ weight.T
        centred = rows - rows.mean(0)
        gram = centred.T @ centred
        ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
        expected = weight + torch.linalg.solve(gram + ridge, centred.T @ (rest - rest.mean(0))).T
    assert torch.allclose(fixed.get_parameter("b.weight").double(), expected, atol=1e-5)


def test_a_bias_for_each_row_is_no_bias_of_a_layer() -> None:
    torch.manual_seed(0)

    class Rows(Written):
        def __init__(self) -> None:
            super().__init__("addmm")
            self.bias = nn.Parameter(torch.randn(50, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, self.first(x).relu(), self.weight)

    model, x = Rows(), torch.randn(50, 5)
    fixed = fxprune.repair(fxprune.prune(model, 0.5, x, scope="layer"), model, [x + i for i in range(6)])
    found = fixed.meta["fxprune"].repair
    assert not found.sites and found.left == {"bias, weight": "no fit is known for addmm with these weights"}


@pytest.mark.parametrize("kind", ["tied", "turned"])
def test_weights_that_are_used_in_several_ways_are_left_and_named(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Several(kind), torch.randn(200, 6)
    fixed, found, _ = repaired(model, x)
    sites = {site.name: site for site in found.sites}
    assert "at several places, in several ways" in sites["b"].kept and not sites["c"].kept
    assert not any(name.startswith(("b", "d")) for name in found.left)
    assert torch.equal(
        fixed.get_parameter("b.weight"), fxprune.prune(model, 0.5, x[:2], scope="layer").get_parameter("b.weight")
    )


def test_a_batch_norm_that_runs_twice_is_left_and_named() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(16)
    model = nn.Sequential(nn.Linear(6, 16), norm, nn.Linear(16, 16), norm, nn.Linear(16, 3)).eval()
    _, found, _ = repaired(model, torch.randn(200, 6))
    assert found.left == {"1": "a batch norm that runs several times"}


# -- many inputs -------------------------------------------------------------------------------------------------------


def rows(n: int, inputs: int, groups: int = 2) -> tuple[Callable[[], Any], list[tuple[Tensor, Tensor]], Tensor]:
    torch.manual_seed(0)
    x = torch.randn(n, groups, inputs).double() * torch.linspace(0.2, 3, inputs) + 1
    r, y = torch.randn(n, groups, 4).double() + x[..., :4], torch.randn(n, groups, 4).double()
    parts = list(zip(x.split(17), r.split(17), strict=True))
    return lambda: iter(parts), parts, y


@pytest.mark.parametrize(("bias", "normed"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize(("n", "most"), [(40, 8192), (90, 10)], ids=["dual", "conjugate gradients"])
def test_the_wide_fit_is_the_fit_from_the_gram_matrix(n: int, most: int, bias: bool, normed: bool) -> None:
    make, parts, y = rows(n, 60 if n == 40 else 30)
    sums = Moments(bias, normed)
    for (x, r), part in zip(parts, y.split(17), strict=True):
        sums.add(x, r, part)
    wide = Wide(make, 1.0, bias, normed, most)
    expected, found = sums.solve(1e-2), wide.solve(1e-2)
    assert expected is not None and found is not None and wide.finite and (found.bias is None) == (expected.bias is None)
    near = 1e-10 if most > n else 1e-3
    assert torch.allclose(found.weight, expected.weight, atol=near)
    assert wide.error(found) == pytest.approx(sums.error(expected), rel=max(near, 1e-9))
    assert wide.error(None) == pytest.approx(sums.error(None), rel=1e-9)
    assert not Wide(lambda: iter([(x * float("nan"), r) for x, r in parts]), 1.0, bias, normed).finite
    assert not Wide(lambda: iter(()), 1.0, bias, normed).finite


@pytest.mark.parametrize("most", [8192, 50], ids=["dual", "conjugate gradients"])
def test_layers_with_many_inputs(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 5))
    x = torch.randn(240, 3, 8, 8)
    expected = repaired(model, x)[0]
    monkeypatch.setattr("fxprune.recovery.repair.repairing._WIDEST", 20)
    monkeypatch.setattr("fxprune.recovery.repair.repairing.Wide", lambda *given: Wide(*given, most=most))
    fixed, found, share = repaired(model, x)
    assert [site.name for site in found.repaired] == ["2", "4"] and share < 0.8
    for name in ("2.weight", "4.weight"):
        assert torch.allclose(fixed.get_parameter(name), expected.get_parameter(name), atol=1e-4 if most == 8192 else 0.02)


# -- other networks, and what is not considered --------------------------------------------------------------------------


class Attention(nn.Module):
    """Embeddings, attention with a fused projection, a recurrent layer, weights that are computed."""

    def __init__(self, last: str = "") -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(20, 16), nn.Parameter(torch.randn(5, 16))
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.kind = last
        if last:
            self.last: Any = {"GRU": lambda: nn.GRU(16, 8, batch_first=True), "Bilinear": lambda: nn.Linear(16, 8)}[last]()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) + self.place
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        if self.kind == "GRU":
            return self.last(x)[0]
        return F.linear(x, self.last.weight * 2) if self.kind else x.mean(1)


@pytest.mark.parametrize(
    ("last", "reason"),
    [("", ""), ("GRU", "no fit is known for GRU"), ("Bilinear", "its weights are computed, or no parameters")],
)
def test_what_is_not_considered_is_listed_with_the_reason(last: str, reason: str) -> None:
    torch.manual_seed(0)
    model, tokens = Attention(last).eval(), torch.randint(0, 20, (200, 5))
    slim = fxprune.prune(model, 0.5, tokens[:2], scope="layer", attention="head_dim")
    fixed = fxprune.repair(slim, model, tokens)
    found = fixed.meta["fxprune"].repair
    assert {site.name for site in found.repaired} >= {"out"} and found.after < found.before
    attention = {name: why for name, why in found.left.items() if "attention" in name}
    assert list(attention.values()) == ["it has no weights"]
    assert [why for name, why in found.left.items() if name not in attention] == ([reason] if reason else [])
    assert found.to_dict()["left"] == found.left


def test_half_of_the_heads_go() -> None:
    torch.manual_seed(0)
    model, tokens = Attention().eval(), torch.randint(0, 20, (240, 5))
    slim = fxprune.prune(model, {"qkv": 0.5}, tokens[:2], attention="heads")
    found = fxprune.repair(slim, model, tokens).meta["fxprune"].repair
    assert [site.name for site in found.repaired] == ["out"] and not found.left and found.after < 0.9 * found.before


# -- mixed precision -----------------------------------------------------------------------------------------------------


def test_mixed_precision_is_for_the_layers_and_sums_are_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval(),
        torch.randn(100, 3, 6, 6),
    )
    slim = fxprune.prune(model, 0.5, x[:2])
    seen: list[torch.dtype] = []
    add = Moments.add
    monkeypatch.setattr(Moments, "add", lambda self, x, r, y: (add(self, x, r, y), seen.append(self.xx.dtype)))
    dtypes: set[torch.dtype] = set()
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (dtypes.add((y := forward(self, x)).dtype), y)[1])
    plain = fxprune.repair(slim, model, x)
    assert dtypes == {torch.float32}
    mixed = fxprune.repair(slim, model, x, amp="bfloat16")
    assert dtypes == {torch.float32, torch.bfloat16} and set(seen) == {torch.float64}
    one, other = (m.get_parameter("3.weight").detach() for m in (plain, mixed))
    assert one.dtype is other.dtype is torch.float32 and not torch.equal(one, other)
    assert float((one - other).norm() / one.norm()) < 0.02
    found = mixed.meta["fxprune"].repair
    assert (
        found.after < found.before
        and found.options["amp"] == "bfloat16"
        and plain.meta["fxprune"].repair.options["amp"] is None
    )
    with pytest.raises(fxprune.InputError, match="amp must be 'bfloat16', 'float16' or None"):
        fxprune.repair(slim, model, x, amp="int8")


def test_models_in_half_precision() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)).bfloat16(), torch.randn(200, 6).bfloat16()
    found = fxprune.repair(fxprune.prune(model, 0.5, x[:2]), model, x).meta["fxprune"].repair
    assert found.after < 0.8 * found.before


class Normed(nn.Module):
    """A residual stream whose channels go, between norms of one kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        make = {"LayerNorm": nn.LayerNorm, "RMSNorm": nn.RMSNorm, "GroupNorm": lambda c: nn.GroupNorm(4, c)}[kind]
        self.start, self.norm, self.last = nn.Linear(6, 24), make(24), make(24)
        self.up, self.down, self.head = nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        x = x + self.down(self.up(self.norm(x)).relu())
        return self.head(self.last(x))


@pytest.mark.parametrize("exact", [False, True], ids=["plain", "exact"])
@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm", "GroupNorm"])
def test_streams_between_norms_of_what_is_kept_and_exact_ones(kind: str, exact: bool) -> None:
    torch.manual_seed(0)
    fixed, found, share = repaired(Normed(kind), torch.randn(300, 6), exact_norms=exact)
    assert share < 0.6 and {site.name for site in found.repaired} == {"up", "down", "head"} and not found.left
    assert len(fixed.meta["fxprune"].exact_norms) == (2 if exact else 0)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 12, 3), nn.ReLU(), nn.Conv1d(12, 4, 3, 2)), (3, 12)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 12, 1), nn.ReLU(), nn.Conv3d(12, 4, 2)), (2, 4, 4, 4)),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 3, groups=2)), (3, 6, 6)),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), nn.ConvTranspose2d(12, 4, 3, 2)), (3, 5, 5)),
    "depthwise between": (
        lambda: nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(), nn.Conv2d(12, 4, 1)),
        (3, 6, 6),
    ),
}


@pytest.mark.parametrize(("make", "shape"), MODULES.values(), ids=MODULES.keys())
def test_convolutions_of_all_kinds(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    _, found, share = repaired(make(), torch.randn(200, *shape))
    assert share < 0.9 and not found.left and found.repaired
