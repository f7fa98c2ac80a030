"""Inferred inputs."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from support.zoo import on_meta
from torch import nn

from fxprune.inputs.models import load_model
from fxprune.inputs.sizes import infer_example_inputs
from tests.kinds import sampled


def each(*cases: tuple[object, ...]) -> list[object]:
    return sampled([pytest.param(*case, id="-".join(map(str, case))) for case in cases], 2)


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    each(
        ("resnet18", {}, (2, 3, 224, 224)),
        ("resnet18", {"in_chans": 5}, (2, 5, 224, 224)),
        ("test_resnet", {}, (2, 3, 160, 160)),
        ("vit_tiny_patch16_224", {"img_size": 96}, (2, 3, 96, 96)),
        ("vit_tiny_patch16_224", {"img_size": (64, 128), "in_chans": 1}, (2, 1, 64, 128)),
        ("swin_tiny_patch4_window7_224", {"img_size": 448}, (2, 3, 448, 448)),
        ("inception_v4", {}, (2, 3, 299, 299)),
        ("resnet18", {"features_only": True, "in_chans": 4}, (2, 4, 224, 224)),
        ("vit_tiny_patch16_224", {"features_only": True, "img_size": 64}, (2, 3, 64, 64)),
        ("hiera_tiny_224", {"img_size": 192}, (2, 3, 192, 192)),  # names its grid of tokens alone
        ("volo_d1_224", {"img_size": (224, 448), "num_classes": 0}, (2, 3, 224, 448)),  # has a table of positions alone
        ("levit_128s", {"img_size": 288, "features_only": True}, (2, 3, 288, 288)),  # names the grids of its stages
        # On the meta device it would take any size: its tables of relative positions are indexed.
        ("mvitv2_tiny", {"img_size": 160}, (2, 3, 160, 160)),
        ("tresnet_m", {"in_chans": 4}, (2, 4, 224, 224)),  # its first convolution sees 16 times as many
    ),
)
def test_inputs_of_timm(name, options, shape):
    model = on_meta(timm.create_model, name, **options)
    (found,) = infer_example_inputs(model)
    assert tuple(found.shape) == shape and found.is_meta
    with torch.no_grad():
        model.eval()(found)


@pytest.mark.parametrize(
    ("name", "shapes"),
    each(
        ("squeezenet1_1", [(2, 3, 224, 224)]),
        ("inception_v3", [(2, 3, 299, 299)]),
        ("vit_b_16", [(2, 3, 224, 224)]),
        ("lraspp_mobilenet_v3_large", [(2, 3, 224, 224)]),
        ("r3d_18", [(2, 3, 16, 112, 112)]),
        ("mvit_v2_s", [(2, 3, 16, 224, 224)]),
        ("swin3d_t", [(2, 3, 16, 224, 224)]),
        ("s3d", [(2, 3, 16, 224, 224)]),
        ("raft_small", [(2, 3, 128, 128)] * 2),
    ),
)
def test_inputs_of_torchvision(name, shapes):
    model = on_meta(load_model, f"torchvision:{name}")
    found = infer_example_inputs(model)
    assert [tuple(x.shape) for x in found] == shapes
    with torch.no_grad():
        model.eval()(*found)


def test_inputs_of_a_vision_transformer_of_another_size():
    model = on_meta(torchvision.models.vit_b_32, weights=None, image_size=64)
    assert infer_example_inputs(model)[0].shape == (2, 3, 64, 64)


def test_inputs_have_the_dtype_of_the_model():
    model = on_meta(torchvision.models.squeezenet1_1, weights=None)
    assert infer_example_inputs(model.to(torch.bfloat16))[0].dtype is torch.bfloat16


def test_inputs_of_a_detector():
    model = load_model("torchvision:ssdlite320_mobilenet_v3_large").eval()
    (found,) = infer_example_inputs(model)
    assert tuple(found.shape) == (2, 3, 320, 320)
    with torch.no_grad():
        assert len(model(torch.rand(found.shape))) == 2


def test_inputs_that_cannot_be_inferred():
    assert infer_example_inputs(nn.Linear(3, 2)) is None
