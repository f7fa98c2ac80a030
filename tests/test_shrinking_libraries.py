"""`fxprune.shrink` on models of libraries, which go on with the result as with their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fxprune

pytestmark = pytest.mark.slow
torch.set_num_threads(1)


@pytest.fixture
def llama() -> tuple[Any, torch.Tensor]:
    """A small language model, and token ids."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except (ImportError, RuntimeError) as error:  # it imports torchaudio wherever that is, and fails with it
        pytest.skip(f"transformers cannot be imported here: {error}")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 96}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32)
    return LlamaForCausalLM(config).eval(), torch.randint(3, 96, (2, 5))


def test_a_language_model_generates(llama: tuple[Any, torch.Tensor]) -> None:
    model, ids = llama
    own = fxprune.prune(model, 0.5, {"input_ids": ids}, form="module")
    assert type(own) is type(model) and not own.meta["fxprune"].own_class.generated
    found = own.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, pad_token_id=0)
    text = ids
    for _ in range(found.shape[1] - 5):
        text = torch.cat([text, own(input_ids=text, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(found, text)


def test_a_language_model_is_stored_and_made_again(llama: tuple[Any, torch.Tensor], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, ids = llama
    own = fxprune.prune(model, 0.5, {"input_ids": ids}, form="module")
    own.save_pretrained(tmp_path)
    (tmp_path / "fxprune_plan.json").write_text(own.meta["fxprune"].plan.to_json())
    plan = fxprune.Plan.from_json((tmp_path / "fxprune_plan.json").read_text())
    config = type(model.config).from_pretrained(tmp_path)
    again = fxprune.apply(type(model)(config).eval(), plan, form="module")
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again(input_ids=ids).logits, own(input_ids=ids).logits)


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
