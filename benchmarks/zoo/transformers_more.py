"""Models of images, sound and both together of Hugging Face transformers, in small configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoo.base import Entry, Inputs
from zoo.transformers_text import BART, made

__all__ = ["ENTRIES"]

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PATCHES = {**LAYERS, "image_size": 32, "patch_size": 8}
SWIN = {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 2}
DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 10,
}
SOUND = {**LAYERS, "conv_dim": (16, 16, 16), "conv_stride": (5, 4, 4), "conv_kernel": (10, 4, 4), "num_feat_extract_layers": 3}
POSITIONS = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
WORDS = {"vocab_size": 96, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def pictures(size: int) -> Callable[[int], Inputs]:
    """Images by name."""
    return lambda batch: {"pixel_values": torch.randn(batch, 3, size, size)}


def image(family: str, suffix: str, size: int, **settings: Any) -> Entry:
    """An entry that takes images."""
    return Entry(f"{family}{suffix}", lambda: made(family, suffix, **settings), pictures(size))


def sound(family: str, suffix: str, **settings: Any) -> Entry:
    """An entry that takes waves of 2,000 samples."""

    def inputs(batch: int) -> Inputs:
        return {"input_values": torch.randn(batch, 2000)}

    return Entry(f"{family}{suffix}", lambda: made(family, suffix, **{**SOUND, **POSITIONS, **settings}), inputs)


def both(family: str, suffix: str, **settings: Any) -> Entry:
    """An entry that takes token ids and images."""

    def inputs(batch: int) -> Inputs:
        return {"input_ids": torch.randint(3, 96, (batch, 12)), "pixel_values": torch.randn(batch, 3, 32, 32)}

    return Entry(f"{family}{suffix}", lambda: made(family, suffix, **settings), inputs)


def backbone() -> Any:
    """The settings of a small ResNet that features are taken from."""
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def detector(family: str, suffix: str, size: int, **settings: Any) -> Entry:
    """An entry over a ResNet."""

    def make() -> nn.Module:
        return made(family, suffix, backbone_config=backbone(), **settings)

    return Entry(f"{family}{suffix}", make, pictures(size))


def _mask2former() -> nn.Module:
    from transformers import SwinConfig

    swin = SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
    settings = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 64}
    more = {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4, "dim_feedforward": 64, "num_queries": 10}
    return made("Mask2Former", "ForUniversalSegmentation", backbone_config=swin, **settings, **more)


def _maskformer() -> nn.Module:
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

    swin = SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
    settings = {"fpn_feature_size": 32, "mask_feature_size": 32}
    return MaskFormerForInstanceSegmentation(
        MaskFormerConfig(backbone_config=swin, decoder_config=DetrConfig(**DETR), **settings)
    )


def _sam() -> nn.Module:
    vision = {"image_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "output_channels": 16}
    vision |= {"mlp_dim": 64, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 8, "patch_size": 16}
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 32, "iou_head_hidden_dim": 16}
    settings = {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": decoder}
    return made("Sam", "Model", **settings)


def _dpt() -> nn.Module:
    settings = {**PATCHES, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 16, 16, 16]}
    return made("DPT", "ForDepthEstimation", **settings, fusion_hidden_size=16, is_hybrid=False)


def _depth_anything() -> nn.Module:
    from transformers import Dinov2Config

    features = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False}
    dino = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=2, patch_size=14, image_size=56, **features
    )
    sizes = {
        "reassemble_hidden_size": 32,
        "neck_hidden_sizes": [8, 16, 16, 16],
        "fusion_hidden_size": 16,
        "head_hidden_size": 8,
    }
    return made("DepthAnything", "ForDepthEstimation", backbone_config=dino, **sizes)


def _prompted(batch: int) -> Inputs:
    return {"pixel_values": torch.randn(batch, 3, 64, 64), "input_points": torch.rand(batch, 1, 2, 2) * 64}


def _whisper(batch: int) -> Inputs:
    return {"input_features": torch.randn(batch, 20, 40), "decoder_input_ids": torch.randint(3, 96, (batch, 7))}


WHISPER = {**BART, "num_mel_bins": 20, "max_source_positions": 20, "max_target_positions": 20, "decoder_start_token_id": 1}
WHISPER |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CLIP = {"text_config": {**LAYERS, **WORDS}, "vision_config": PATCHES}
ENTRIES = [
    image("ViT", "ForImageClassification", 32, **PATCHES),
    image("DeiT", "ForImageClassification", 32, **PATCHES),
    image("Swin", "ForImageClassification", 64, **SWIN),
    image("Swinv2", "ForImageClassification", 64, **SWIN),
    image("Dinov2", "Model", 28, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, image_size=28),
    image("ConvNext", "ForImageClassification", 64, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    image("Beit", "ForImageClassification", 32, **PATCHES),
    image("ResNet", "ForImageClassification", 64, embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]),
    image(
        "RegNet",
        "ForImageClassification",
        64,
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        groups_width=8,
    ),
    image("MobileNetV2", "ForImageClassification", 64, depth_multiplier=0.5),
    image("MobileViT", "ForImageClassification", 64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 24, 32, 40, 64]),
    image(
        "Segformer", "ForSemanticSegmentation", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=32
    ),
    image("PoolFormer", "ForImageClassification", 64, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]),
    image("Yolos", "ForObjectDetection", 32, **{**PATCHES, "image_size": [32, 32]}, num_detection_tokens=10),
    detector("Detr", "ForObjectDetection", 64, **DETR),
    detector("ConditionalDetr", "ForObjectDetection", 64, **DETR),
    detector("UperNet", "ForSemanticSegmentation", 64, hidden_size=32, auxiliary_channels=16, auxiliary_in_channels=24),
    Entry("Mask2FormerForUniversalSegmentation", _mask2former, pictures(64)),
    Entry("MaskFormerForInstanceSegmentation", _maskformer, pictures(64)),
    Entry("SamModel", _sam, _prompted),
    Entry("DPTForDepthEstimation", _dpt, pictures(32)),
    Entry("DepthAnythingForDepthEstimation", _depth_anything, pictures(56)),
    both("CLIP", "Model", **CLIP),
    both("Siglip", "Model", **CLIP),
    Entry("WhisperModel", lambda: made("Whisper", "Model", **WHISPER), _whisper),
    Entry("WhisperForConditionalGeneration", lambda: made("Whisper", "ForConditionalGeneration", **WHISPER), _whisper),
    sound("Wav2Vec2", "Model"),
    sound("Wav2Vec2", "ForCTC", vocab_size=32),
    sound("Hubert", "Model"),
    sound("WavLM", "Model"),
    sound("UniSpeech", "Model"),
]
