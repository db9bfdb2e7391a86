"""Random vision-language models of the true classes, in every layout that their files come in, and language models that fit."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)

from tests.adapters.tokenizers_kit import byte_level

LAYERS, WIDTH, SIDE, PATCH = 3, 32, 32, 16
IMAGE = "<image>"
TEXTS = ["what is this?", "it is a red apple.", "これは何ですか。リンゴです。"]
SIZE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "projection_dim": 16,
}
DECODERS: Mapping[str, Callable[..., Any]] = {"llava": LlamaConfig, "llava_next": MistralConfig}


def tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Bytes and a few words; ``extra`` tokens come last, as those that a vision-language model adds."""
    made = byte_level(TEXTS, 300, ("<pad>", "</s>"))
    made.add_special_tokens(list(extra))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", padding_side="left")


def seed_of(label: str) -> int:
    """A number of a label's own, the same in every process."""
    return sum(map(ord, label))


def language_model(folder: Path, kind: str, label: str, *, shard: str = "1GB", **changes: Any) -> Path:
    """A plain decoder with a tokenizer."""
    words = tokenizer()
    torch.manual_seed(seed_of(label))
    config = DECODERS[kind](**{**SIZE, "vocab_size": len(words), **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / label, max_shard_size=shard)
    words.save_pretrained(folder / label)
    return folder / label


def vision_language_model(
    folder: Path, kind: str, label: str, *, padding: int = 3, shard: str = "1GB", layout: str = "old", **changes: Any
) -> Path:
    """A LLaVA with an image token of its own and rows of padding.

    Args:
        kind: "llava" (1.5, with a Llama) or "llava_next" (1.6, with a Mistral).
        layout: "old" (transformers 4, as hub files have it), "new" (4.52 and later), or "own" (as written here).
    """
    words = tokenizer((IMAGE,))
    torch.manual_seed(seed_of(label))
    text = DECODERS[kind](**{**SIZE, "vocab_size": len(words) + padding, **changes})
    shared = {
        "vision_config": CLIPVisionConfig(**VISION).to_dict(),
        "text_config": text.to_dict(),
        "image_token_index": words.convert_tokens_to_ids(IMAGE),
        "vision_feature_layer": -1,
        "tie_word_embeddings": bool(changes.get("tie_word_embeddings")),
    }
    common: dict[str, Any] = {"tokenizer": words, "patch_size": PATCH, "num_additional_image_tokens": 1, "image_token": IMAGE}
    common["vision_feature_select_strategy"] = "default"
    size = {"height": SIDE, "width": SIDE}
    if kind == "llava":
        config: Any = LlavaConfig(**shared, image_seq_length=(SIDE // PATCH) ** 2)
        processor: Any = LlavaProcessor(image_processor=CLIPImageProcessor(size=size, crop_size=size), **common)
    else:
        grid = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
        config = LlavaNextConfig(**shared, image_grid_pinpoints=grid)
        pictures = LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size=size, image_grid_pinpoints=grid)
        processor = LlavaNextProcessor(image_processor=pictures, **common)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder / label, max_shard_size=shard)
    processor.save_pretrained(folder / label)
    if layout != "own":
        rename(folder / label, OLD if layout == "old" else NEW)
    return folder / label


def OLD(name: str) -> str:  # noqa: N802 - a layout, as the constants are
    """As LLaVA's files on the hub have it: CLIP's tower in its wrapper."""
    return re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name)


def NEW(name: str) -> str:  # noqa: N802
    """As transformers 4.52 and later write it."""
    name = re.sub(r"^language_model\.lm_head\.", "lm_head.", OLD(name))
    name = re.sub(r"^language_model\.model\.", "model.language_model.", name)
    return re.sub(r"^(vision_tower|multi_modal_projector|image_newline)", r"model.\1", name)


def rename(folder: Path, layout: Callable[[str], str]) -> None:
    """Write a folder's tensors under other names."""
    for file in folder.glob("*.safetensors"):
        save_file({layout(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text())
        content["weight_map"] = {layout(name): shard for name, shard in content["weight_map"].items()}
        index.write_text(json.dumps(content))


def tensors(folder: Path) -> dict[str, Tensor]:
    """Everything that a folder's files hold."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def picture(seed: int = 0, side: int = SIDE) -> Image.Image:
    """A picture of noise."""
    pixels = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
