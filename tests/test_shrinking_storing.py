"""Slim models that are stored and made again: from what their class is built from, and from a plan beside the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune

torch.set_num_threads(1)


@dataclass
class Config:
    """What a model is built from; numbers that are an old size by chance, too."""

    width: int = 16
    hidden: int = 24
    heads: int = 4
    inner: int | None = None
    positions: int = 16
    layers: dict[str, int] = field(default_factory=lambda: {"depth": 2})


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.inner or 2 * config.width
        self.heads, self.qkv, self.proj = (
            config.heads,
            nn.Linear(config.width, 3 * config.width),
            nn.Linear(config.width, config.width),
        )
        self.up, self.mix, self.down = (
            nn.Linear(config.width, config.hidden),
            nn.Linear(config.hidden, width),
            nn.Linear(width, config.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(self.mix(self.up(x).relu()).relu())  # type: ignore[no-any-return]


class Net(nn.Module):
    """A stack of layers; one weight has two names, and a part, too."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed, self.last = nn.Linear(8, config.width, bias=False), nn.Linear(config.width, 8, bias=False)
        self.layers_tied = nn.Linear(config.width, config.width, bias=False)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers["depth"]))
        self.same, self.layers_tied.weight = self.layers[0].up, self.layers[0].proj.weight
        self.frequencies = nn.Buffer(torch.arange(1.0, 4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x) * self.frequencies.mean()  # type: ignore[no-any-return]


X = torch.randn(2, 3, 8)


def pruned(ratio: Any, config: Config | None = None, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = Net(config or Config()).eval()
    return model, fxprune.prune(model, ratio, X, form="module", **{"scope": "layer", "attention": "heads", **options})


@pytest.mark.parametrize(
    ("ratio", "options", "expected"),
    [
        (0.5, {"ignore": ["layers.*.mix"]}, {"width": (16, 8), "hidden": (24, 12), "heads": (4, 2), "inner": (None, 32)}),
        (0.5, {}, {"width": (16, 8), "hidden": (24, 12), "heads": (4, 2)}),
        ({"*.up": 0.25}, {}, {"hidden": (24, 18)}),
        ({"layers.0.up": 0.25}, {}, {}),  # layers differ
        (0.5, {"attention": "head_dim"}, {"width": (16, 8), "hidden": (24, 12)}),  # its scale is in the weights
    ],
)
def test_what_a_model_is_built_from_says_the_slim_sizes(ratio: Any, options: Any, expected: dict[str, Any]) -> None:
    model, own = pruned(ratio, **options)
    assert own.meta["fxprune"].own_class.config == expected
    assert model.config == Config() and own.config == Config(**{name: new for name, (_, new) in expected.items()})
    if expected:
        made = Net(own.config).eval()
        made.load_state_dict(own.state_dict())
        assert torch.equal(made(X), own(X))


class Scaled(nn.Module):
    """Two numbers of equal shapes whose meaning differs: only what comes out tells them apart. One is also the scale."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.first, self.last = nn.Linear(8, config.hidden), nn.Linear(config.hidden, 8)
        self.scale = config.hidden**-0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu()) * self.scale  # type: ignore[no-any-return]


def test_shapes_alone_do_not_prove_what_a_model_is_built_from() -> None:
    torch.manual_seed(0)
    own = fxprune.prune(Scaled(Config()).eval(), 0.5, X, form="module")
    made = Scaled(Config(hidden=12))
    assert [p.shape for p in made.parameters()] == [p.shape for p in own.parameters()]
    assert not own.meta["fxprune"].own_class.config and own.config == Config()


@pytest.mark.parametrize("ratio", [0.5, {"layers.0.up": 0.25, "layers.1.mix": 0.5}])
def test_a_folder_has_the_slim_model(ratio: Any, tmp_path: Path) -> None:
    _, own = pruned(ratio)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter += torch.randn_like(parameter)
    assert fxprune.store(own, tmp_path / "slim") == tmp_path / "slim"
    assert sorted(f.name for f in (tmp_path / "slim").iterdir()) == ["fxprune_plan.json", "model.safetensors"]
    other = Net(Config())
    before = {n: t.clone() for n, t in other.state_dict().items()}
    again = fxprune.restore(other, str(tmp_path / "slim"))
    assert type(again) is Net and torch.equal(again.eval()(X), own(X)) and again.same is again.layers[0].up
    assert again.layers_tied.weight is again.layers[0].proj.weight
    assert all(torch.equal(t, before[n]) for n, t in other.state_dict().items())
    if own.meta["fxprune"].own_class.config:
        slim = Net(own.config)
        direct = fxprune.restore(slim, tmp_path / "slim")
        assert torch.equal(direct.eval()(X), own(X)) and not torch.equal(slim.last.weight, own.last.weight)


def test_a_bias_that_a_layer_got_since_is_stored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False)).eval()
    slim = fxprune.prune(model, 0.5, X)
    slim.get_submodule("2").register_parameter("bias", nn.Parameter(torch.randn(4)))
    own = fxprune.shrink(model, slim)
    again = fxprune.restore(model, fxprune.store(own, tmp_path))
    assert model[2].bias is None and torch.equal(again[2].bias, own[2].bias) and torch.equal(again(X), own(X))


class Keeping(nn.Module):
    """Stores itself, in several files, perhaps under other names."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self.prefix = prefix
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())  # type: ignore[no-any-return]

    def save_pretrained(self, path: Path) -> None:
        from safetensors.torch import save_file

        path.mkdir(exist_ok=True)
        for part in ("first", "last"):
            save_file(
                {self.prefix + n: t for n, t in self.state_dict().items() if n.startswith(part)}, path / f"{part}.safetensors"
            )


@pytest.mark.parametrize(("prefix", "more"), [("", []), ("old.", ["fxprune.safetensors"])])
def test_a_model_that_stores_itself_does_so(prefix: str, more: list[str], tmp_path: Path) -> None:
    for _ in range(2):  # what lies there from before is replaced
        own = fxprune.prune(Keeping(prefix).eval(), 0.5, X, form="module")
        folder = fxprune.store(own, tmp_path / "slim")
        files = ["first.safetensors", *more, "fxprune_plan.json", "last.safetensors"]
        assert sorted(f.name for f in folder.iterdir()) == files
        assert torch.equal(fxprune.restore(Keeping().eval(), folder)(X), own(X))


class Branching(Keeping):
    """No graph can hold it."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y.relu() if y.max() > 0 else y)  # type: ignore[no-any-return]


def test_a_model_that_no_graph_holds_is_stored(tmp_path: Path) -> None:
    own = fxprune.prune(Branching().eval(), 0.5, X, form="module")
    again = fxprune.restore(Branching().eval(), fxprune.store(own, tmp_path))
    assert again.first.out_features == 8 and torch.equal(again(X), own(X))


def test_what_cannot_be_stored_or_made_again_is_said(tmp_path: Path) -> None:
    model, own = pruned({"*.up": 0.25})
    for wrong in (model, fxprune.prune(model, {"*.up": 0.25}, X), None):
        with pytest.raises(fxprune.InputError, match="store takes what shrink returned"):
            fxprune.store(wrong, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(fxprune.InputError, match="is a file: name a folder"):
        fxprune.store(own, tmp_path / "file")
    with pytest.raises(fxprune.InputError, match="cannot be read: No such file"):
        fxprune.restore(model, tmp_path / "nothing")
    folder = fxprune.store(own, tmp_path / "slim")
    with pytest.raises(fxprune.PlanMismatch):
        fxprune.restore(Net(Config(hidden=40)), folder)
    plan = json.loads((folder / "fxprune_plan.json").read_text())
    assert plan["model"] == "Net"
    (folder / "model.safetensors").unlink()
    with pytest.raises(fxprune.InputError, match="there are no weights in"):
        fxprune.restore(model, folder)
