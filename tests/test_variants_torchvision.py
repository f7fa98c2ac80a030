"""Models of torchvision for other tasks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from support.variants import check
from torch import Tensor, nn
from torchvision.models.quantization import QuantizableMobileNetV2
from torchvision.models.quantization.shufflenetv2 import QuantizableShuffleNetV2
from torchvision.models.segmentation.fcn import FCN, FCNHead
from torchvision.models.video.mvit import MSBlockConfig, MViT
from torchvision.models.video.swin_transformer import SwinTransformer3d

from tests.kinds import sampled


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


@pytest.mark.parametrize("name", sampled([pytest.param(name, id=name) for name in TORCHVISION], 2))
def test_small_models_of_torchvision(name: str) -> None:
    build, shape = TORCHVISION[name]
    check(build(), (torch.empty(2, *shape, device="meta"),), fewer=0.2)
