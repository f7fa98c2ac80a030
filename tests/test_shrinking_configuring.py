"""What a model is built from, where heads get narrower: their scale is an attribute that the class works out of their width."""

from __future__ import annotations

from dataclasses import dataclass
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
    width: int = 16
    heads: int = 4
    fused: bool = True


class Heads(nn.Module):
    """The width of a head may be said, and is worked out otherwise."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.fused, self.head_dim = config.fused, getattr(config, "head_dim", config.width // config.heads)
        self.scaling, inner = self.head_dim**-0.5, config.heads * self.head_dim
        self.q, self.k, self.v = (nn.Linear(config.width, inner) for _ in range(3))
        self.proj = nn.Linear(inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, scale=self.scaling)
        else:
            y = (torch.matmul(q, k.transpose(2, 3)) * self.scaling).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed, self.attention, self.last = nn.Linear(8, config.width), Heads(config), nn.Linear(config.width, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.last(x + self.attention(x))  # type: ignore[no-any-return]


X = torch.randn(2, 3, 8)
NARROW = {"attention.q.weight": 0.5, "attention.v.weight": 0.5}


def pruned(ratio: Any, fused: bool = True) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = Net(Config(fused=fused)).eval()
    with torch.no_grad():
        model.attention.q.weight *= 8  # so that scales matter
    return model, fxprune.prune(model, ratio, X, scope="layer", form="module")


@pytest.mark.parametrize("fused", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("ratio", "expected"), [(0.5, {"width": (16, 8)}), (NARROW, {"head_dim": (None, 2)})])
def test_the_scale_of_narrower_heads_is_that_which_the_class_works_out(ratio: Any, expected: Any, fused: bool) -> None:
    model, own = pruned(ratio, fused)
    report = own.meta["fxprune"]
    assert report.own_class.config == expected and not report.own_class.config_left
    assert report.own_class.rescaled == {"attention": {"scaling": (0.5, 2**-0.5)}}
    assert set(report.own_class.folded["attention"]) == {"attention.q.weight", "attention.q.bias"}
    made = Net(own.config).eval()
    made.load_state_dict(own.state_dict())
    torch.testing.assert_close(made(X), own(X))
    torch.testing.assert_close(own(X), fxprune.prune(model, ratio, X, scope="layer")(X))
    assert not hasattr(model.config, "head_dim") and model.config.width == 16 and model.attention.scaling == 0.5


def test_weights_with_the_factor_go_to_a_model_with_the_scale(tmp_path: Path) -> None:
    """A plan says whether the weights that belong to it have the factor; one that nobody has carried out has none."""
    model, own = pruned(0.5)
    plan = fxprune.Plan.from_json(own.meta["fxprune"].plan.to_json())
    other = fxprune.apply(model, plan, form="module")
    assert other.attention.scaling == own.attention.scaling
    torch.testing.assert_close(other(X), own(X))
    again = fxprune.restore(Net(Config()).eval(), fxprune.store(own, tmp_path))
    assert torch.equal(again(X), own(X))
    plain = fxprune.apply(model, fxprune.plan(model, 0.5, X, scope="layer"), form="module")
    assert plain.attention.scaling == 0.5 and not plain.meta["fxprune"].own_class.rescaled
    torch.testing.assert_close(plain(X), own(X))


class Uneven(Net):
    """Frequencies hang on a size: those that are left are not those of a smaller model."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.frequencies = nn.Buffer(1 / (1 + torch.arange(config.width)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sin(self.embed(x) * self.frequencies) + self.attention(self.embed(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "ratio", "words"),
    [
        pytest.param(Uneven, 0.5, "computes something else", marks=pytest.mark.slow),
        (Net, {"attention.v.weight": 0.5}, "no numbers in it"),
    ],
)
def test_what_stays_as_it_was_is_said(make: Any, ratio: Any, words: str) -> None:
    torch.manual_seed(0)
    own = fxprune.prune(make(Config()).eval(), ratio, X, scope="layer", form="module")
    report = own.meta["fxprune"]
    assert not report.own_class.config and own.config == Config() and not report.own_class.rescaled
    assert words in report.own_class.config_left and "attention='heads'" in report.own_class.config_left
    assert report.own_class.config_left in report.notes


def test_sizes_of_layers_are_their_own() -> None:
    """A layer that reads as many channels as before, and makes fewer of them."""
    _, own = pruned({"embed.weight": 0.5})
    assert (own.attention.proj.in_features, own.attention.proj.out_features) == (16, 8)
    assert not own.meta["fxprune"].own_class.kept_true
