"""Other models of the shape "what sees + projector + decoder", tried with random weights, and plain models that fit inside."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3TextConfig,
    Idefics3Config,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaOnevisionConfig,
    Mistral3Config,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2VLConfig,
    SiglipVisionConfig,
)

from tests.adapters.test_llava import opened, recipe

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EYE: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGLIP = SiglipVisionConfig(**EYE, image_size=32, patch_size=16, vision_use_head=False).to_dict()
PIXTRAL = PixtralVisionConfig(**EYE, image_size=32, patch_size=16, head_dim=8).to_dict()
INTERN = InternVLVisionConfig(**EYE, image_size=[32, 32], patch_size=[16, 16]).to_dict()
QWEN_EYE = {"depth": 2, "num_heads": 2, "patch_size": 4}
QWEN_TEXT = {**SIZE, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
QWEN = Qwen2Config(**SIZE)
GEMMA = Gemma3TextConfig(**SIZE, head_dim=8)
UNTIED = {"tie_word_embeddings": False}

# Name -> (config of the model that sees, config of the language model that its decoder is).
CLASSES: dict[str, tuple[Any, Any]] = {
    "llava_onevision": (
        LlavaOnevisionConfig(vision_config=SIGLIP, text_config=QWEN.to_dict(), image_token_index=100, video_token_index=101),
        QWEN,
    ),
    "internvl": (InternVLConfig(vision_config=INTERN, text_config=QWEN.to_dict(), image_token_id=100, **UNTIED), QWEN),
    "idefics3": (
        Idefics3Config(
            vision_config={**EYE, "image_size": 32, "patch_size": 16},
            text_config=LlamaConfig(**SIZE).to_dict(),
            image_token_id=100,
        ),
        LlamaConfig(**SIZE),
    ),
    "mistral3": (
        Mistral3Config(vision_config=PIXTRAL, text_config=MistralConfig(**SIZE).to_dict(), image_token_index=100, **UNTIED),
        MistralConfig(**SIZE),
    ),
    "gemma3": (
        Gemma3Config(vision_config=SIGLIP, text_config=GEMMA.to_dict(), mm_tokens_per_image=4, image_token_index=100),
        GEMMA,
    ),
    "qwen2_vl": (
        Qwen2VLConfig(vision_config={**QWEN_EYE, "embed_dim": 16, "hidden_size": 32}, text_config=QWEN_TEXT, image_token_id=100),
        QWEN,
    ),
    "qwen2_5_vl": (
        Qwen2_5_VLConfig(
            vision_config={**QWEN_EYE, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32},
            text_config=QWEN_TEXT,
            image_token_id=100,
        ),
        QWEN,
    ),
}


@pytest.mark.parametrize("name", CLASSES)
def test_other_models_that_see_share_their_decoder(name: str, tmp_path: Path) -> None:
    """Tried: each of these classes with random weights, merged with the plain language model its decoder comes from."""
    seeing, plain = CLASSES[name]
    AutoModelForImageTextToText.from_config(seeing).save_pretrained(tmp_path / "vlm")
    for label in ("base", "ja"):
        AutoModelForCausalLM.from_config(plain).save_pretrained(tmp_path / label)
    (tmp_path / "vlm" / "preprocessor_config.json").write_text("{}")
    (tmp_path / "vlm" / "tokenizer_config.json").write_text("{}")
    folders = {label: tmp_path / label for label in ("base", "vlm", "ja")}
    adapter, models = opened(folders)
    plan = recipe(folders, adapter, models, "task_arithmetic")
    aligned, _ = adapter.aligned(plan, models)
    adapter.check(aligned, "base", whole=plan.components)
    adapter.save(plan, aligned, tmp_path / "child")
    child, told = AutoModelForImageTextToText.from_pretrained(tmp_path / "child", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    before = AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm").state_dict()
    same = {key: torch.equal(value, before[key]) for key, value in child.state_dict().items()}
    sees = [key for key in same if not any(part in key for part in ("language_model", "text_model", "lm_head"))]
    assert len(sees) > 10
    assert all(same[key] for key in sees)
    assert not any(value for key, value in same.items() if "q_proj.weight" in key and key not in sees)
