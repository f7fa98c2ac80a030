"""Networks of diffusers: U-Nets, autoencoders and transformers of diffusion."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoo.base import Entry, Inputs

__all__ = ["ENTRIES"]

BLOCKS = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
CONDITIONAL = {
    **BLOCKS,
    "cross_attention_dim": 24,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}
UP = {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
CODER = {
    **BLOCKS,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "sample_size": 32,
}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}


def net(kind: str, inputs: Callable[[int], Inputs], outputs: tuple[str, ...] = (), **settings: Any) -> Entry:
    """An entry for one class of diffusers."""

    def make() -> nn.Module:
        return getattr(importlib.import_module("diffusers"), kind)(**settings)

    return Entry(kind, make, inputs, outputs)


def latents(channels: int, size: int, **more: Callable[[int], torch.Tensor]) -> Callable[[int], Inputs]:
    """Latent images at a step of time."""

    def inputs(batch: int) -> Inputs:
        found = {"sample": torch.randn(batch, channels, size, size), "timestep": torch.randint(0, 900, (batch,))}
        return found | {name: make(batch) for name, make in more.items()}

    return inputs


def words(length: int, width: int) -> Callable[[int], torch.Tensor]:
    """Encoded text."""
    return lambda batch: torch.randn(batch, length, width)


def _coded(batch: int) -> Inputs:
    return {"sample": torch.randn(batch, 3, 32, 32)}


def _labelled(batch: int) -> Inputs:
    return {
        "hidden_states": torch.randn(batch, 4, 8, 8),
        "timestep": torch.randint(0, 900, (batch,)),
        "class_labels": torch.randint(0, 9, (batch,)),
    }


def _sd3(batch: int) -> Inputs:
    return {
        "hidden_states": torch.randn(batch, 4, 8, 8),
        "encoder_hidden_states": torch.randn(batch, 6, 24),
        "pooled_projections": torch.randn(batch, 20),
        "timestep": torch.rand(batch) * 900,
    }


def _flux(batch: int) -> Inputs:
    return {
        "hidden_states": torch.randn(batch, 16, 4),
        "encoder_hidden_states": torch.randn(batch, 6, 24),
        "pooled_projections": torch.randn(batch, 20),
        "timestep": torch.rand(batch),
        "img_ids": torch.randn(16, 3),
        "txt_ids": torch.randn(6, 3),
    }


def _pixart(batch: int) -> Inputs:
    return {
        "hidden_states": torch.randn(batch, 4, 8, 8),
        "encoder_hidden_states": torch.randn(batch, 6, 24),
        "timestep": torch.randint(0, 900, (batch,)),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def _controlled(batch: int) -> Inputs:
    found = latents(4, 16, encoder_hidden_states=words(6, 24), controlnet_cond=lambda b: torch.randn(b, 3, 32, 32))(batch)
    return found


def _prior(batch: int) -> Inputs:
    return {
        "hidden_states": torch.randn(batch, 24),
        "timestep": torch.randint(0, 900, (batch,)),
        "proj_embedding": torch.randn(batch, 24),
        "encoder_hidden_states": torch.randn(batch, 6, 24),
    }


def _transformed(batch: int) -> Inputs:
    return {"hidden_states": torch.randn(batch, 16, 8, 8), "encoder_hidden_states": torch.randn(batch, 6, 24)}


ENTRIES = [
    net(
        "UNet2DModel",
        latents(3, 16),
        ("conv_out",),
        **BLOCKS,
        sample_size=16,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    net(
        "UNet2DConditionModel",
        latents(4, 16, encoder_hidden_states=words(6, 24)),
        ("conv_out",),
        **CONDITIONAL,
        **UP,
        sample_size=16,
    ),
    net("AutoencoderKL", _coded, ("decoder.conv_out",), **CODER),
    net("VQModel", _coded, ("decoder.conv_out",), **CODER, num_vq_embeddings=32),
    net(
        "AutoencoderTiny",
        _coded,
        ("decoder",),
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ),
    net(
        "DiTTransformer2DModel",
        _labelled,
        ("proj_out_2",),
        **HEADS,
        in_channels=4,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
    ),
    net("Transformer2DModel", _transformed, ("proj_out",), **HEADS, in_channels=16, cross_attention_dim=24, norm_num_groups=8),
    net(
        "SD3Transformer2DModel",
        _sd3,
        ("proj_out",),
        **HEADS,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pooled_projection_dim=20,
        pos_embed_max_size=16,
    ),
    net(
        "FluxTransformer2DModel",
        _flux,
        ("proj_out",),
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        axes_dims_rope=(4, 4, 8),
    ),
    net(
        "PixArtTransformer2DModel",
        _pixart,
        ("proj_out",),
        **HEADS,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=32,
        caption_channels=24,
        sample_size=8,
        norm_type="ada_norm_single",
    ),
    net("ControlNetModel", _controlled, (), **CONDITIONAL, in_channels=4, conditioning_embedding_out_channels=(8, 16)),
    net(
        "PriorTransformer",
        _prior,
        ("proj_to_clip_embeddings",),
        **HEADS,
        embedding_dim=24,
        num_embeddings=6,
        additional_embeddings=4,
    ),
]
