"""Networks of torchaudio, and torch.nn's own Transformer, LSTM and GRU in small models."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.base import Entry, Inputs

__all__ = ["AUDIO", "OWN"]


def sound(name: str, inputs: Callable[[int], Inputs], outputs: tuple[str, ...] = (), **settings: Any) -> Entry:
    """A network of torchaudio.models."""

    def make() -> nn.Module:
        return getattr(importlib.import_module("torchaudio.models"), name)(**settings)

    return Entry(name, make, inputs, outputs)


def lengths(batch: int, length: int) -> Tensor:
    """How long each sequence is."""
    return torch.full((batch,), length)


ENCODER: dict[str, Any] = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(16, 10, 5), (16, 4, 4)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 32,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 64,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.0,
}
WIDE: dict[str, Any] = {"input_dim": 32, "num_heads": 4, "ffn_dim": 64, "num_layers": 2}
AUDIO = [
    sound("wav2vec2_model", lambda b: (torch.randn(b, 2000),), **ENCODER, aux_num_out=10),
    sound("Conformer", lambda b: (torch.randn(b, 20, 32), lengths(b, 20)), **WIDE, depthwise_conv_kernel_size=7),
    sound("Emformer", lambda b: (torch.randn(b, 18, 32), lengths(b, 18)), **WIDE, segment_length=4, right_context_length=2),
    sound(
        "ConvTasNet",
        lambda b: (torch.randn(b, 1, 800),),
        enc_num_feats=32,
        msk_num_feats=16,
        msk_num_hidden_feats=32,
        msk_num_layers=2,
        msk_num_stacks=2,
    ),
    sound("DeepSpeech", lambda b: (torch.randn(b, 1, 20, 16),), ("out",), n_feature=16, n_hidden=32, n_class=10),
    sound("Wav2Letter", lambda b: (torch.randn(b, 1, 4000),), num_classes=10),
    sound(
        "WaveRNN",
        lambda b: (torch.randn(b, 1, 160), torch.randn(b, 1, 16, 8)),
        ("fc3",),
        upsample_scales=[5, 4, 2],
        n_classes=16,
        hop_length=40,
        n_res_block=2,
        n_rnn=16,
        n_fc=16,
        kernel_size=5,
        n_freq=16,
        n_hidden=16,
        n_output=16,
    ),
    sound("HDemucs", lambda b: (torch.randn(b, 2, 8192),), sources=["a", "b"], channels=8, nfft=1024, depth=4),
    sound("squim_objective_base", lambda b: (torch.randn(b, 3200),)),
    sound(
        "Tacotron2",
        lambda b: (torch.randint(0, 20, (b, 12)), lengths(b, 12), torch.randn(b, 16, 10), lengths(b, 10)),
        n_mels=16,
        n_symbol=20,
        symbol_embedding_dim=32,
        encoder_embedding_dim=32,
        attention_rnn_dim=32,
        decoder_rnn_dim=32,
        postnet_embedding_dim=32,
        attention_hidden_dim=16,
        prenet_dim=16,
    ),
]


class Tagger(nn.Module):
    """Words, a recurrent network over them, and a class for each."""

    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(96, 32)
        self.recurrent = kind(32, 32, batch_first=True, **settings)
        self.head = nn.Linear(32 * (1 + self.recurrent.bidirectional), 10)

    def forward(self, words: Tensor) -> Tensor:
        """Words [n, length] -> [n, length, 10]."""
        states, _ = self.recurrent(self.embedding(words))
        return self.head(states)  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """An encoder of torch.nn over words, and a class for the whole."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.embedding, self.encoder, self.head = nn.Embedding(96, 32), encoder, nn.Linear(32, 10)

    def forward(self, words: Tensor) -> Tensor:
        """Words [n, length] -> [n, 10]."""
        return self.head(self.encoder(self.embedding(words)).mean(dim=1))  # type: ignore[no-any-return]


def _words(batch: int) -> Inputs:
    return (torch.randint(0, 96, (batch, 9)),)


def _sequences(batch: int) -> Inputs:
    return (torch.randn(batch, 7, 32), torch.randn(batch, 5, 32))


def _encoder(**settings: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, **settings)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def _decoder() -> nn.Module:
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, batch_first=True), 2)


OWN = [
    Entry("LSTM", lambda: Tagger(nn.LSTM), _words, ("head",)),
    Entry(
        "LSTM two layers, both ways", lambda: Tagger(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.1), _words, ("head",)
    ),
    Entry("GRU", lambda: Tagger(nn.GRU), _words, ("head",)),
    Entry("GRU both ways", lambda: Tagger(nn.GRU, bidirectional=True), _words, ("head",)),
    Entry("RNN", lambda: Tagger(nn.RNN), _words, ("head",)),
    Entry("TransformerEncoder", lambda: Classifier(_encoder()), _words, ("head",)),
    Entry(
        "TransformerEncoder gelu, norm first",
        lambda: Classifier(_encoder(activation="gelu", norm_first=True)),
        _words,
        ("head",),
    ),
    Entry("TransformerDecoder", _decoder, _sequences),
    Entry("Transformer", lambda: nn.Transformer(32, 4, 2, 2, 64, batch_first=True), _sequences),
]
