"""`fxprune.shrink` on models of libraries, which go on with the result as with their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.libraries import library

import fxprune

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = torch.randint(3, 96, (2, 5), generator=torch.Generator().manual_seed(0))


def _llama(t: Any) -> tuple[Any, Any]:
    sizes = {"intermediate_size": 48, "vocab_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 32}
    return t.LlamaForCausalLM(t.LlamaConfig(**SMALL, **sizes)), {"input_ids": IDS}


def _bert(t: Any) -> tuple[Any, Any]:
    config = t.BertConfig(**SMALL, intermediate_size=64, vocab_size=96, max_position_embeddings=32)
    return t.BertForSequenceClassification(config), {"input_ids": IDS}


def _vit(t: Any) -> tuple[Any, Any]:
    config = t.ViTConfig(**SMALL, intermediate_size=64, image_size=32, patch_size=8)
    return t.ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


def _gpt2(t: Any) -> tuple[Any, Any]:
    config = t.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=32, vocab_size=96, bos_token_id=1, eos_token_id=2)
    return t.GPT2LMHeadModel(config), {"input_ids": IDS}


def _generated(model: Any, ids: torch.Tensor) -> None:
    """With the cache and without, greedy decoding gives the same."""
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, pad_token_id=0)
    text = ids
    for _ in range(found.shape[1] - ids.shape[1]):
        text = torch.cat([text, model(input_ids=text, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(found, text)


@pytest.mark.parametrize(
    ("make", "ratio", "attention", "config"),
    [
        (_llama, 0.5, "heads", {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}),
        (_llama, {"*gate_proj*": 0.25}, "heads", {"intermediate_size": 36}),
        (_llama, {"*layers.0*gate_proj*": 0.25}, "heads", {}),
        (_bert, 0.5, "heads", {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}),
        (_bert, 0.5, "head_dim", {"hidden_size": 16, "intermediate_size": 32}),
        (_bert, 0.3, "head_dim", {}),
        (_vit, 0.5, "head_dim", {"hidden_size": 16, "intermediate_size": 32}),
        (_vit, {"*.q_proj.weight": 0.5, "*.v_proj.weight": 0.5}, "head_dim", {"head_dim": 4}),
        (_vit, 0.5, "heads", {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}),
        (_gpt2, {"*c_fc*": 0.5}, "none", {"n_inner": 64}),
        (_gpt2, 0.5, "heads", {}),
    ],
)
def test_models_of_transformers_are_stored_and_made_again(
    make: Callable[[Any], Any],
    ratio: Any,
    attention: Any,
    config: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By `from_pretrained` alone where the configuration says all, and by a plan beside the weights in any case."""
    transformers = library("transformers", monkeypatch)
    torch.manual_seed(0)
    model, inputs = make(transformers)
    own = fxprune.prune(model.eval(), ratio, inputs, scope="layer", attention=attention, form="module")
    report = own.meta["fxprune"].own_class
    assert type(own) is type(model) and not report.generated
    assert {name: new for name, (_, new) in report.config.items()} == config
    assert bool(report.config_left) != bool(config) and (
        "attention='heads'" in report.config_left or attention != "head_dim" or config
    )
    with torch.no_grad():
        for parameter in own.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    fxprune.store(own, tmp_path)
    expected = own(**inputs).logits
    stored = type(model.config).from_pretrained(tmp_path)
    assert torch.equal(fxprune.restore(type(model)(stored).eval(), tmp_path)(**inputs).logits, expected)
    if config:
        again = type(model).from_pretrained(tmp_path).eval()
        assert torch.equal(again(**inputs).logits, expected)
        assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in model.parameters())
    if "input_ids" in inputs and make is not _bert:
        _generated(own, IDS)


def test_halves_and_heads_of_timm() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    for name in ("test_resnet", "test_vit"):
        model, x = timm.create_model(name).eval(), torch.randn(1, 3, 160, 160)
        own = fxprune.prune(model, 0.5, x, scope="layer", form="module")
        features = own.forward_features(x)
        assert own.num_features in features.shape and own.num_features < model.num_features
        torch.testing.assert_close(own.forward_head(features), own(x))
        own.reset_classifier(7)
        assert own.get_classifier().in_features == own.num_features and own(x).shape == (1, 7)
