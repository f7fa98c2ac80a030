"""Pairs of towers of open_clip, in the sizes of its own settings made small."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from zoo.base import Entry, Inputs

__all__ = ["ENTRIES"]

TEXT = {"context_length": 12, "vocab_size": 96, "width": 32, "heads": 4, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}


def _inputs(batch: int) -> Inputs:
    return (torch.randn(batch, 3, 32, 32), torch.randint(3, 95, (batch, 12)))


def pair(name: str, vision: dict[str, Any], text: dict[str, Any] | None = None, kind: str = "CLIP", **settings: Any) -> Entry:
    """An entry for one pair of towers."""

    def make() -> nn.Module:
        library: Any = importlib.import_module("open_clip")
        towers = {"vision_cfg": dict(vision), "text_cfg": dict(TEXT if text is None else text)}
        return getattr(library, kind)(**{"embed_dim": 16, **towers, **settings})  # type: ignore[no-any-return]

    return Entry(name, make, _inputs)


def timm_tower(name: str) -> dict[str, Any]:
    """A network of timm as the tower of images."""
    return {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": 32}


RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 8, "patch_size": None}
MULTIMODAL = {"context_length": 12, "vocab_size": 96, "width": 32, "heads": 4, "layers": 2, "mlp_ratio": 2}
ENTRIES = [
    pair("ViT", VIT),
    pair("ViT quickgelu", VIT, quick_gelu=True),
    pair("ViT average pooling", {**VIT, "pool_type": "avg"}),
    pair("ViT attentional pooling", {**VIT, "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 8}),
    pair("ViT patch dropout", {**VIT, "patch_dropout": 0.5}),
    pair("ViT custom text", VIT, kind="CustomTextCLIP"),
    pair(
        "SigLIP",
        timm_tower("test_vit"),
        {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
        "CustomTextCLIP",
        init_logit_bias=-10,
    ),
    pair("RN50", RESNET),
    pair("ConvNeXt", {**timm_tower("test_convnext"), "timm_pool": "avg"}, kind="CustomTextCLIP"),
    pair(
        "CoCa",
        {**VIT, "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 8, "output_tokens": True},
        {**TEXT, "embed_cls": True, "output_tokens": True},
        "CoCa",
        multimodal_cfg=MULTIMODAL,
        embed_dim=32,
    ),
]
