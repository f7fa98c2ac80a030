"""`fxprune.shrink`: models in their own classes, with numbers in attributes and in code."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.marks import needs_positions
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.planning.own_class import OwnClass

torch.set_num_threads(1)


class Attention(nn.Module):
    """Heads by an attribute, their width in one of the ways that code has."""

    def __init__(self, way: str, dim: int = 12, heads: int = 2) -> None:
        super().__init__()
        self.way, self.num_heads, self.head_dim = way, heads, dim // heads
        self.scale = self.head_dim**-0.5
        self.sizes = {"heads": (heads, self.head_dim)}
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim

    def split(self, x: Tensor, tokens: int) -> Tensor:
        return x.reshape(x.shape[0], tokens, 3, self.num_heads, 6)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        y = self.qkv(x)
        if self.way in ("attribute", "fused", "property"):
            y = y.reshape(n, tokens, 3, self.num_heads, self.head_dim)
        elif self.way == "in a dict":
            y = y.reshape(n, tokens, 3, *self.sizes["heads"])
        elif self.way == "in a method":
            y = self.split(y, tokens)
        else:
            y = y.reshape(n, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = y.permute(2, 0, 3, 1, 4).unbind(0)
        if self.way == "fused":
            z = F.scaled_dot_product_attention(q, k, v)
        else:
            z = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        z = z.transpose(1, 2)
        return self.proj(z.reshape(n, tokens, self.width) if self.way == "property" else z.flatten(2))


class Mixer(nn.Module):
    """A residual stream and attention upon it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(5, 12), nn.LayerNorm(12)
        self.attention, self.last = Attention(way), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last((x + self.attention(self.norm(x))).mean(1))


class Gated(nn.Module):
    """The first half of the channels, by a number of its own; two paths over one layer, whose output is one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.unrelated = 8, 8
        self.first, self.shared, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        a, b = y[:, : self.c], y[:, self.c :]
        pad = F.pad(x, (0, self.unrelated - 8))
        return self.last(self.shared(self.shared(a.relu())) * b.sigmoid()) + pad.mean()


class Slots(nn.Module):
    """Numbers in a list and in a named place of a subclass of a layer; tied weights; a hook; a weight under two names."""

    class Depthwise(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight, self.bias, padding=1, groups=self.in_channels)

    def __init__(self) -> None:
        super().__init__()
        self.pieces = [4, 6, 6]
        self.first, self.depth = nn.Conv2d(3, 16, 1), Slots.Depthwise(16, 16, 3, groups=16)
        self.one, self.two, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(4 + 6, 2)
        self.two.weight = self.one.weight
        self.one.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.first(x)).mean((2, 3))
        a, b, c = y.split(self.pieces, 1)
        return self.last(torch.cat([a, self.one(b).relu() + self.two(c)], 1))


class Biased(nn.Module):
    """Queries that are more than queries: the factor that makes up for a scale cannot go into them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.places, self.last = nn.Linear(5, 36), nn.Parameter(torch.randn(4, 12)), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.last(F.scaled_dot_product_attention(q, k, v, attn_mask=q @ self.places.t()))


TOKENS, IMAGE = torch.randn(2, 4, 5), torch.randn(2, 3, 6, 6)
# Name -> model, input, what else prune takes, and what is said of the result.
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, Any], Callable[[OwnClass], Any]]] = {
    "no number": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1)),
        IMAGE,
        {},
        lambda own: not own.settings,
    ),
    "attribute": (lambda: Mixer("attribute"), TOKENS, {}, lambda own: own.settings["attention"]["head_dim"] == (6, 3)),
    "property": (lambda: Mixer("property"), TOKENS, {}, lambda own: own.settings["attention"]["head_dim"] == (6, 3)),
    "heads": (
        lambda: Mixer("attribute"),
        TOKENS,
        {"attention": "heads"},
        lambda own: own.settings["attention"] == {"num_heads": (2, 1)},
    ),
    "in a dict": (lambda: Mixer("in a dict"), TOKENS, {}, lambda own: "sizes['heads'][1]" in own.settings["attention"]),
    "fused": (lambda: Mixer("fused"), TOKENS, {}, lambda own: own.folded == {"attention": [*own.folded["attention"]]} != {}),
    "in code": (
        lambda: Mixer("in code"),
        TOKENS,
        {"ratio": {"first*": 0.0, "attention*": 0.5}},
        lambda own: own.sized["attention"] == {"dim // self.num_heads": "3"},
    ),
    "queries for more": (
        Biased,
        TOKENS,
        {},
        lambda own: not own.folded and "attn_mask=q @ self.places.t(), scale=" in str(own.sized[""]),
    ),
    "in a method": (lambda: Mixer("in a method"), TOKENS, {}, lambda own: not own.generated),
    "half": (Gated, IMAGE, {}, lambda own: own.settings[""] == {"c": (8, 4)}),
    "slots": (Slots, IMAGE, {}, lambda own: list(own.settings[""]) == ["pieces[0]", "pieces[1]", "pieces[2]"]),
}


SIZES_IN_CODE = ("in code", "queries for more", "in a method")  # which expressions these are, Python has to know


@pytest.mark.parametrize("name", [pytest.param(n, marks=needs_positions if n in SIZES_IN_CODE else ()) for n in CASES])
def test_a_model_keeps_its_class(name: str) -> None:
    make, x, options, said = CASES[name]
    torch.manual_seed(0)
    model = make().eval()
    before = copy.deepcopy(model.state_dict())
    ratio = options.get("ratio", 0.5)
    slim = fxprune.prune(model, ratio, x, scope="layer", **{k: v for k, v in options.items() if k != "ratio"})
    own = fxprune.shrink(model, slim)
    report = own.meta["fxprune"]
    assert type(own) is type(model) and [type(m) for m in own.modules()] == [type(m) for m in model.modules()]
    assert not report.own_class.generated and report.own_class.error <= report.own_class.tolerance, report
    assert said(report.own_class), report.own_class
    assert len(report.own_class.errors) > 2 and any("training" in name for name in report.own_class.errors)
    torch.testing.assert_close(own(x), slim(x), atol=2e-6, rtol=2e-5)
    assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in slim.parameters()) < len(model.state_dict()) * 1e4
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


class Backbone(nn.Module):
    """Numbers that its code does not read: of the last map, of what comes in, of stages; and one that is no channel."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features, self.in_channels, self.patch_size = 16, 3, 8
        self.feature_info = [{"num_chs": 8, "module": "stem"}, {"num_chs": 16, "module": "body.0"}]
        self.stem, self.body, self.fc = nn.Conv2d(3, 8, 1), nn.Sequential(nn.Conv2d(8, 16, 1)), nn.Linear(16, 5)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x).relu())  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x).mean((2, 3)))


def test_numbers_that_others_read_stay_true() -> None:
    model = Backbone().eval()
    own = fxprune.prune(model, {"stem": 0.25, "body*": 0.5}, IMAGE, form="module")
    assert own.num_features == own.forward_features(IMAGE).shape[1] == own.fc.in_features == 8
    assert [entry["num_chs"] for entry in own.feature_info] == [6, 8] and (own.in_channels, own.patch_size) == (3, 8)
    assert model.num_features == 16 and model.feature_info[0]["num_chs"] == 8
    assert own.meta["fxprune"].own_class.kept_true[""]["num_features"] == (16, 8)


class Rotated(nn.Module):
    """A number of a part whose method is called, past its forward; and a scaled value that passes through a part."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dim, self.register = 12, nn.Parameter(torch.randn(12))

        def table(self, x: Tensor) -> Tensor:
            return self.register.reshape(1, 1, self.dim) * x

    class Project(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rope, self.last = nn.Linear(5, 12), Rotated.Table(), nn.Linear(12, 3)
        self.q, self.k, self.v = Rotated.Project(), Rotated.Project(), Rotated.Project()

    def forward(self, x: Tensor) -> Tensor:
        x = self.rope.table(self.first(x))
        return self.last(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


def test_a_part_whose_methods_are_called_is_fitted() -> None:
    torch.manual_seed(0)
    model = Rotated().eval()
    slim = fxprune.prune(model, 0.5, TOKENS, scope="layer")
    own = fxprune.shrink(model, slim)
    report = own.meta["fxprune"].own_class
    assert report.settings == {"": {"rope.dim": (12, 6)}} and not report.generated and not report.sized
    assert set(report.folded[""]) == {"q.linear.weight", "q.linear.bias"}
    torch.testing.assert_close(own(TOKENS), slim(TOKENS), atol=2e-6, rtol=2e-5)


def test_the_slim_graph_stays_as_it_is() -> None:
    """Its nodes, too, which say the scale that its weights need."""
    model = Mixer("fused").eval()
    slim = fxprune.prune(model, 0.5, TOKENS, scope="layer")
    before = [str(node.format_node()) for node in slim.graph.nodes]
    assert fxprune.shrink(model, slim).meta["fxprune"].own_class.folded
    assert [str(node.format_node()) for node in slim.graph.nodes] == before and "scale" in "".join(before)


@needs_positions
def test_an_expression_that_became_a_number_is_copied_and_stored() -> None:
    model, x = Mixer("in code").eval(), TOKENS
    own = fxprune.prune(model, {"first*": 0.0, "attention*": 0.5}, x, form="module")
    assert "self.num_heads, 3)" in own.attention.forward.source
    for other in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert other.attention.forward.part is other.attention
        assert torch.equal(other(x), own(x))
        other.attention.proj.weight.data.zero_()
        assert not torch.equal(other(x), own(x))


def test_weights_and_training_of_the_slim_model_come_along() -> None:
    model, x = Mixer("attribute"), TOKENS
    slim = fxprune.prune(model, 0.5, x, scope="layer")
    with torch.no_grad():
        slim.get_parameter("last.weight").mul_(3)
    own = fxprune.shrink(model, slim)
    assert own.training and torch.equal(own.last.weight, slim.get_parameter("last.weight"))
    own.last.weight.data.zero_()
    assert not torch.equal(own.last.weight, slim.get_parameter("last.weight"))


def test_a_plan_makes_the_model_anew_before_its_weights_are_loaded() -> None:
    model, x = Mixer("fused").eval(), TOKENS
    own = fxprune.prune(model, 0.5, x, scope="layer", form="module")
    file = io.BytesIO()
    torch.save(own.state_dict(), file)
    file.seek(0)
    plan = fxprune.Plan.from_json(own.meta["fxprune"].plan.to_json())
    other = fxprune.apply(Mixer("fused").eval(), plan, form="module")
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), own(x))


def test_submodules_keep_their_classes() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Mixer("attribute")

        def forward(self, x: Tensor) -> list[float]:
            return self.body(x).tolist()  # type: ignore[no-any-return]

    model = Whole().eval()
    own = fxprune.prune(model, 0.5, [TOKENS], submodules=["body"], scope="layer", form="module")
    slim = fxprune.prune(model, 0.5, [TOKENS], submodules=["body"], scope="layer")
    assert type(own.body) is Mixer and own.body.attention.head_dim == 3 and model.body.attention.head_dim == 6
    torch.testing.assert_close(torch.tensor(own(TOKENS)), torch.tensor(slim(TOKENS)))
    torch.testing.assert_close(fxprune.shrink(model, slim)(TOKENS), own(TOKENS))


class Tangled(nn.Module):
    """Sizes in a function of another place, which neither a number nor an expression of its own sets."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(5, 12), nn.Dropout(0.5), nn.Linear(12, 3)

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        y = self.drop(_twelve(self.first(x)))
        return self.last(y * 2 if self.training else y) * gain


def _twelve(x: Tensor) -> Tensor:
    return x.reshape(-1, 3, 4).flatten(1).relu()


class Around(nn.Module):
    """A part that cannot follow, between others that can."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.inner, self.after = nn.Linear(4, 6), Tangled(), nn.Linear(3, 2)
        self.inner.first = nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(self.before(x).relu(), gain=0.5))


@pytest.mark.parametrize(("make", "size", "part"), [(Tangled, 5, ""), (Around, 4, "inner")])
def test_what_cannot_follow_runs_generated_code(make: Any, size: int, part: str) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, size)
    slim = fxprune.prune(model, 0.5, x, scope="layer")
    own = fxprune.shrink(model, slim)
    assert list(own.meta["fxprune"].own_class.generated) == [part] and torch.equal(own(x), slim(x))
    other = pickle.loads(pickle.dumps(own)).double()
    assert type(other) is make and torch.allclose(other(x.double()).float(), own(x))
    other.get_submodule(part).last.weight.data.zero_()
    assert torch.equal(other(x.double())[0], other(x.double())[1])
    torch.manual_seed(1)
    expected = slim.train()(x)
    torch.manual_seed(1)
    assert torch.equal(own.train()(x), expected)
    own(x).sum().backward()
    weight = own.get_submodule(part).first.weight
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    if part:
        with pytest.raises(fxprune.PruneError, match="called with other arguments than when it was recorded"):
            own.inner(torch.randn(2, 6))


def test_a_certificate_finds_a_wrong_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    import fxprune.shrinking.building as building

    original = building.own_copy_of

    def wrong(*args: Any) -> Any:
        made = original(*args)
        made.norm.eps = 0.1
        return made

    monkeypatch.setattr(building, "own_copy_of", wrong)
    own = fxprune.shrink(Mixer("attribute").eval(), fxprune.plan(Mixer("attribute"), 0.5, TOKENS))
    assert list(own.meta["fxprune"].own_class.generated) == [""]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((nn.Linear(2, 2), "plan"), "takes a plan, or what prune or apply returned, not 'plan'"),
        (("model", None), "model must be"),
    ],
)
def test_what_cannot_be_shrunk_is_said(given: Any, message: str) -> None:
    with pytest.raises(fxprune.InputError, match=message):
        fxprune.shrink(*given)


def test_a_form_that_is_none() -> None:
    with pytest.raises(fxprune.InputError, match="form must be 'graph' or 'module', not 'class'"):
        fxprune.prune(nn.Linear(2, 2), 0.5, torch.zeros(1, 2), form="class")  # type: ignore[arg-type]
