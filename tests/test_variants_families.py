"""The wide table: variants of many families."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.variants import VARIANTS, check, check_timm

from fxprune.inputs.models import load_model
from fxprune.inputs.sizes import infer_example_inputs

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
