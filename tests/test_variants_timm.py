"""Variants of timm models: features, other inputs, no classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from support.variants import VARIANTS, Features, check_timm
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import fxprune
from tests.kinds import sampled

SMALL = {
    "test_resnet": ["features_only", "no classes, no pooling", "forward_features", "six channels"],
    "test_vit": ["features_only", "no classes", "one channel"],
    "test_efficientnet_ln": ["last features only", "no classes, no pooling", "forward_features"],
}


@pytest.mark.parametrize(
    ("name", "variant"), sampled([pytest.param(n, v, id=f"{n}-{v}") for n, variants in SMALL.items() for v in variants])
)
def test_small_models_of_timm(name: str, variant: str) -> None:
    check_timm(name, fewer=0.2, **VARIANTS[variant])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_vit", {"img_size": (48, 80), "features": True}),
        pytest.param(*("hiera_tiny_224", {"img_size": 64, "embed_dim": 16, "stages": (1, 1, 1, 1)}), marks=pytest.mark.slow),
        pytest.param(
            *("levit_128s", {"img_size": 96, "embed_dim": (32, 32, 32), "num_heads": (2, 2, 2), "depth": (1, 1, 1)}),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_another_image_size(name: str, options: dict[str, Any]) -> None:
    """The size is inferred from the model, which takes no other."""
    check_timm(name, fewer=0.2, **options)


def test_what_forward_features_does_not_use_stays_out() -> None:
    """The head of the wrapped model is in no group, and its features keep their width."""
    model = Features(timm.create_model("test_resnet", num_classes=7))
    slim = fxprune.prune(model, 0.5, torch.empty(1, 3, 64, 64))
    assert slim(torch.randn(2, 3, 64, 64)).shape == model(torch.randn(2, 3, 64, 64)).shape
    assert not any(name.startswith("model.fc") for name in slim.state_dict())
    assert all(f"model.{name}" in dict(model.named_parameters()) for name, _ in slim.model.named_parameters())


class OwnFeatures(nn.Module):
    """Features kept by hooks under the device of the input, as libraries do, and read back at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 4, 3)
        self.seen: dict[Any, list[Tensor]] = {}
        for part in (self.one, self.two):
            part.register_forward_hook(self.keep)

    def keep(self, part: nn.Module, args: Any, output: Tensor) -> None:
        self.seen.setdefault(output.device, []).append(output)

    def forward(self, x: Tensor) -> list[Tensor]:
        self.head(self.two(self.one(x).relu()).relu())
        return self.seen.pop(x.device, [])


def test_features_that_hooks_keep() -> None:
    model, x = OwnFeatures(), torch.randn(2, 3, 9, 9)
    expected, found = model(x), fxprune.trace(model, x)(x)
    assert len(found) == 2 and all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    analysis = fxprune.analyze(model, x)
    assert [g.id for g in analysis.free] == ["head.weight"] or not analysis.free  # the features themselves are the output


@pytest.mark.slow
def test_features_that_timm_keeps_by_hooks() -> None:
    check_timm("test_efficientnet", fewer=0.2, features_only=True, feature_cls="hook")


@pytest.mark.parametrize("wrap", [weight_norm, spectral_norm])
def test_parametrized_weights(wrap: Callable[..., nn.Module]) -> None:
    model = timm.create_model("test_resnet")
    wrap(model.layer2[0].conv1)
    slim = fxprune.prune(model, 0.5, torch.empty(1, 3, 64, 64))
    assert slim(torch.randn(2, 3, 64, 64)).shape == (2, 1000)


@pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated
@pytest.mark.parametrize(
    ("compile", "said"),
    [(torch.compile, "the model is compiled: give the module inside"), (torch.jit.script, "the model is TorchScript")],
)
def test_compiled_models_are_refused(compile: Callable[[nn.Module], nn.Module], said: str) -> None:
    with pytest.raises(fxprune.InputError, match=said):
        fxprune.prune(compile(nn.Linear(3, 2)), 0.5, torch.empty(1, 3))


def test_a_forward_without_a_tensor_is_refused() -> None:
    """Nothing could be checked of it."""

    class Nothing(nn.Linear):
        def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
            super().forward(x)
            return []

    with pytest.raises(fxprune.TraceError, match="returns no tensor"):
        fxprune.prune(Nothing(3, 2), 0.5, torch.empty(1, 3))


class Tables(nn.Module):
    """Positions resampled to the image, and a window of them repeated as often as it fits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.table, self.window = nn.Parameter(torch.randn(1, 8, 4, 4)), nn.Parameter(torch.randn(1, 8, 4, 4))

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        table = nn.functional.interpolate(self.table, size=x.shape[-2:], mode="bicubic")
        high, wide = (a // b for a, b in zip(table.shape[-2:], self.window.shape[-2:], strict=True))
        return self.head((x + table + self.window.tile((high, wide))).relu())


def test_a_table_that_is_resampled_to_the_image_follows_it() -> None:
    model = Tables()
    slim = fxprune.prune(model, 0.5, torch.empty(1, 3, 8, 8))
    for size in (8, 12, 20):
        x = torch.randn(2, 3, size, size + 4)
        assert torch.equal(fxprune.trace(model, torch.empty(1, 3, 8, 8))(x), model(x))
        assert slim(x).shape == model(x).shape
