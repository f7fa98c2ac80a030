"""The forms in which libraries hand out one architecture: features, no classes, no pooling, other inputs, other tasks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torchvision.models.quantization import QuantizableMobileNetV2
from torchvision.models.quantization.shufflenetv2 import QuantizableShuffleNetV2
from torchvision.models.segmentation.fcn import FCN, FCNHead
from torchvision.models.video.mvit import MSBlockConfig, MViT
from torchvision.models.video.swin_transformer import SwinTransformer3d

import fxprune
from fxprune.codegen import check_round_trip
from fxprune.inputs.models import infer_example_inputs, load_model
from fxprune.proofs.permutation import permutation_error
from fxprune.proofs.randomize import randomize


class Features(nn.Module):
    """What a user writes who calls ``model.forward_features`` and not the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model.forward_features(x)


def shapes(value: Any) -> list[tuple[int, ...]]:
    if isinstance(value, Tensor):
        return [tuple(value.shape)]
    return [s for v in (value.values() if isinstance(value, dict) else value) for s in shapes(v)]


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in (value.values() if isinstance(value, dict) else value) for t in tensors(v)]


def check(model: nn.Module, example: tuple[Tensor, ...], *, fewer: float, folder: Path | None = None) -> None:
    """Prune half of every group, by layer and globally, and try all that holds for any model.

    Args:
        model: fresh weights; they are replaced by random ones, since fresh ones hide errors.
        example: inputs on the meta device.
        fewer: the share of the parameters that must go at least.
        folder: where to save the result; it is read back in another process.
    """
    randomize(model).eval()
    inputs = tuple(torch.randn(t.shape) for t in example)
    three = tuple(torch.randn(3, *t.shape[1:]) for t in example)
    with torch.no_grad():
        expected, expected3 = shapes(model(*inputs)), shapes(model(*three))
    analysis = fxprune.analyze(model, example, attention="both")
    assert not analysis.traced.mode.unknown
    error = permutation_error(analysis, model)
    if error >= 1e-4:  # where rounding grows, float64 tells it from a fault
        double = copy.deepcopy(model).double()
        wide = fxprune.analyze(double, tuple(t.double() for t in example), attention="both")
        error = permutation_error(wide, double)
    assert error < 1e-4
    for scope in ("layer", "global"):
        # Masked equivalence is checked inside: a difference raises.
        slim = fxprune.prune(model, 0.5, example, scope=scope, attention="both")  # type: ignore[arg-type]
        report = slim.meta["fxprune"]
        assert 1 - report.params_after / report.params_before >= fewer
        with torch.no_grad():
            assert shapes(slim(*inputs)) == expected
            assert shapes(slim(*three)) == expected3
    loss = sum(t.float().square().mean() for t in tensors(copy.deepcopy(slim).train()(*inputs)))
    assert isinstance(loss, Tensor) and math.isfinite(float(loss.detach()))
    loss.backward()  # type: ignore[no-untyped-call]
    if folder is not None:
        check_round_trip(slim, folder / "slim", inputs)


def check_timm(name: str, *, fewer: float, folder: Path | None = None, features: bool = False, **options: Any) -> None:
    model = timm.create_model(name, **options)
    example = infer_example_inputs(model)
    assert example is not None
    check(Features(model) if features else model, example, fewer=fewer, folder=folder)


# -- timm ------------------------------------------------------------------------------------------------------


VARIANTS: dict[str, dict[str, Any]] = {
    "features_only": {"features_only": True},
    "last features only": {"features_only": True, "out_indices": (-1,)},
    "no classes": {"num_classes": 0},
    "no classes, no pooling": {"num_classes": 0, "global_pool": ""},
    "forward_features": {"features": True},
    "one channel": {"in_chans": 1, "num_classes": 5},
    "six channels": {"in_chans": 6, "num_classes": 5},
}


SMALL = {
    "test_resnet": ["features_only", "no classes, no pooling", "forward_features", "six channels"],
    "test_vit": ["features_only", "no classes", "one channel"],
    "test_efficientnet_ln": ["last features only", "no classes, no pooling", "forward_features"],
}


@pytest.mark.parametrize(("name", "variant"), [(n, v) for n, variants in SMALL.items() for v in variants])
def test_small_models_of_timm(name: str, variant: str) -> None:
    check_timm(name, fewer=0.2, **VARIANTS[variant])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_vit", {"img_size": (48, 80), "features": True}),
        ("hiera_tiny_224", {"img_size": 64, "embed_dim": 16, "stages": (1, 1, 1, 1)}),
        ("levit_128s", {"img_size": 96, "embed_dim": (32, 32, 32), "num_heads": (2, 2, 2), "depth": (1, 1, 1)}),
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


# -- torchvision -----------------------------------------------------------------------------------------------


def mvit() -> nn.Module:
    """MViTv2 in small: relative positions, residual pooling, channels expanded in attention."""
    blocks = [
        MSBlockConfig(1, 12, 12, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        MSBlockConfig(2, 12, 24, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    return MViT(
        spatial_size=(32, 32),
        temporal_size=4,
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=5,
    )


def swin3d() -> nn.Module:
    return SwinTransformer3d([2, 4, 4], 12, [1, 1], [2, 2], [2, 2, 2], num_classes=5)


def fcn() -> nn.Module:
    """Segmentation: features by name, a head, and an interpolation to the size of the image."""
    backbone = timm.create_model("test_resnet", features_only=True, out_indices=(3,))

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = backbone

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.body(x)[0]}

    return FCN(Backbone(), FCNHead(backbone.feature_info.channels()[-1], 3))


TORCHVISION: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mvit": (mvit, (3, 4, 32, 32)),
    "swin3d": (swin3d, (3, 4, 32, 32)),
    "fcn": (fcn, (3, 64, 64)),
    "quantizable mobilenet": (lambda: QuantizableMobileNetV2(width_mult=0.1, num_classes=5), (3, 64, 64)),
    "quantizable shufflenet": (
        lambda: QuantizableShuffleNetV2([1, 1, 1], [8, 8, 16, 32, 32], num_classes=5),
        (3, 64, 64),
    ),
}


@pytest.mark.parametrize("name", list(TORCHVISION))
def test_small_models_of_torchvision(name: str) -> None:
    build, shape = TORCHVISION[name]
    check(build(), (torch.empty(2, *shape, device="meta"),), fewer=0.2)


# -- the wide table --------------------------------------------------------------------------------------------


FAMILIES = {
    "resnet18": ["features_only", "no classes, no pooling", "forward_features", "six channels"],
    "vit_tiny_patch16_224": ["features_only", "no classes", "forward_features", "one channel"],
    "convnext_atto": ["features_only", "no classes, no pooling", "forward_features"],
    "efficientnet_b0": ["features_only", "no classes", "forward_features"],
    "mobilenetv3_small_050": ["features_only", "no classes, no pooling", "six channels"],
    "regnetx_002": ["features_only", "forward_features"],
    "densenet121": ["features_only", "no classes, no pooling"],
    "hrnet_w18_small": ["features_only", "forward_features"],
    "swin_tiny_patch4_window7_224": ["features_only", "no classes, no pooling", "forward_features"],
    "pvt_v2_b0": ["features_only", "forward_features"],
    "levit_128s": ["features_only", "no classes", "forward_features"],
    "deit_tiny_distilled_patch16_224": ["features_only", "no classes", "forward_features"],
    "cait_xxs24_224": ["features_only", "no classes, no pooling"],
    "efficientformerv2_s0": ["features_only", "forward_features"],
    "mobilevit_xxs": ["features_only", "no classes"],
    "edgenext_xx_small": ["features_only", "no classes"],
    "hgnetv2_b0": ["features_only", "forward_features"],
    "ghostnet_050": ["features_only", "no classes"],
    "tresnet_m": ["features_only", "six channels"],
    "mixer_s32_224": ["features_only", "no classes"],
    "crossvit_tiny_240": ["no classes", "forward_features"],
    "xcit_nano_12_p16_224": ["features_only", "no classes"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), [(n, v) for n, variants in FAMILIES.items() for v in variants])
def test_families_of_timm(name: str, variant: str, tmp_path: Path) -> None:
    check_timm(name, fewer=0.2, folder=tmp_path, **VARIANTS[variant])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "r3d_18",
        "mc3_18",
        "r2plus1d_18",
        "s3d",
        "mvit_v1_b",
        "mvit_v2_s",
        "swin3d_t",
        "raft_small",
        "fcn_resnet50",
        "deeplabv3_mobilenet_v3_large",
        "lraspp_mobilenet_v3_large",
        "quantized_mobilenet_v2",
        "quantized_mobilenet_v3_large",
        "quantized_googlenet",
        "quantized_resnet18",
        "quantized_shufflenet_v2_x0_5",
    ],
)
def test_tasks_of_torchvision(name: str, tmp_path: Path) -> None:
    model = load_model(f"torchvision:{name}")
    example = infer_example_inputs(model)
    assert example is not None
    check(model, example, fewer=0.5, folder=tmp_path)
