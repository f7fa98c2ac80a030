"""Models of language of Hugging Face transformers, two layers each, otherwise with the defaults of their configuration."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from zoo.base import Entry, Inputs, ids

__all__ = ["ENTRIES"]

# What most configurations call their sizes.
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FEWER = {"num_key_value_heads": 2}  # heads of keys and values: grouped attention
OF_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def made(family: str, suffix: str, **settings: Any) -> nn.Module:
    """A model of a family by its configuration: ``made("Llama", "ForCausalLM", hidden_size=32)``."""
    library = importlib.import_module("transformers")
    config = getattr(library, f"{family}Config")(**settings)
    return getattr(library, family.removesuffix("Text") + suffix)(config) if suffix else getattr(library, family)(config)


def text(family: str, suffix: str, *, only: dict[str, Any] | None = None, **settings: Any) -> Entry:
    """An entry that takes token ids; `only`: its settings where it does not know the names of `SIZES`."""
    every = {**(SIZES if only is None else only), **TOKENS, **settings}
    return Entry(f"{family}{suffix}", lambda: made(family, suffix, **every), ids())


def pairs(family: str, suffix: str, **settings: Any) -> Entry:
    """An encoder and a decoder, each with its ids."""

    def inputs(batch: int) -> Inputs:
        return {name: torch.randint(3, 96, (batch, length)) for name, length in (("input_ids", 12), ("decoder_input_ids", 7))}

    return Entry(f"{family}{suffix}", lambda: made(family, suffix, **TOKENS, **settings), inputs)


BART = {
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}
T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}

DECODERS = [
    text("Llama", "ForCausalLM", **FEWER),
    text("Qwen2", "ForCausalLM", **FEWER),
    text("Qwen3", "ForCausalLM", head_dim=8, **FEWER),
    text("Mistral", "ForCausalLM", **FEWER),
    text("Gemma", "ForCausalLM", head_dim=8, **FEWER),
    text("Gemma2", "ForCausalLM", head_dim=8, **FEWER),
    text("Gemma3Text", "ForCausalLM", head_dim=8, **FEWER),
    text("Phi", "ForCausalLM"),
    text("Phi3", "ForCausalLM", **FEWER),
    text("Mixtral", "ForCausalLM", **OF_EXPERTS, **FEWER),
    text("Falcon", "ForCausalLM"),
    text("OPT", "ForCausalLM", ffn_dim=64, word_embed_proj_dim=32),
    text("Bloom", "ForCausalLM", only={"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    text("GPT2", "LMHeadModel", only={"vocab_size": 96, **GPT2}, pad_token_id=None),
    text("GPTNeoX", "ForCausalLM"),
    text("GPTJ", "ForCausalLM", only={"vocab_size": 96, "rotary_dim": 4, **GPT2}),
    text("GPTNeo", "ForCausalLM", num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]),
    text("StableLm", "ForCausalLM", **FEWER),
    text("Cohere", "ForCausalLM", **FEWER),
    text("Olmo2", "ForCausalLM", **FEWER),
    text("Granite", "ForCausalLM", **FEWER),
    text("SmolLM3", "ForCausalLM", **FEWER),
    text("Starcoder2", "ForCausalLM", **FEWER),
    text("Qwen2Moe", "ForCausalLM", num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=32, **FEWER),
    text("Mamba", "ForCausalLM", only={"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    text("Llama", "ForSequenceClassification", **FEWER),
]
ENCODERS = [
    text("Bert", "Model"),
    text("Bert", "ForMaskedLM"),
    text("Bert", "ForSequenceClassification"),
    text("Roberta", "ForMaskedLM", max_position_embeddings=66),
    text("XLMRoberta", "Model", max_position_embeddings=66),
    text("Albert", "Model", embedding_size=16),
    text("DistilBert", "Model", only={"vocab_size": 96, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    text("Deberta", "Model", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    text("DebertaV2", "Model", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    text("Electra", "ForPreTraining", embedding_size=16),
    text("MPNet", "Model"),
    text("ModernBert", "Model", global_attn_every_n_layers=2, local_attention=8),
    text("RoFormer", "Model", embedding_size=32),
    text("SqueezeBert", "Model", embedding_size=32),
    text("MobileBert", "Model", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
    text("ConvBert", "Model", embedding_size=32),
    text("FNet", "Model"),
    text("Longformer", "Model", attention_window=4, max_position_embeddings=66),
    text("BigBird", "Model"),
    text(
        "Funnel",
        "Model",
        only={"vocab_size": 96, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
    ),
    text("XLNet", "LMHeadModel", only={"vocab_size": 96, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
]
BOTH = [
    pairs("T5", "ForConditionalGeneration", **T5),
    pairs("MT5", "Model", **T5),
    pairs("Bart", "ForConditionalGeneration", **BART),
    pairs("MBart", "Model", **BART),
    pairs("Pegasus", "Model", **BART),
    pairs("Marian", "MTModel", decoder_start_token_id=0, **BART),
    pairs("M2M100", "Model", **BART),
]
ENTRIES = [*DECODERS, *ENCODERS, *BOTH]
