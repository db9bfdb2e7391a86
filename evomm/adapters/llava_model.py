"""Vision-language models brought to life: loading, answering questions about pictures, and where tensors live in memory."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from evomm.adapters import resident
from evomm.adapters.base import LoadedModel
from evomm.adapters.generation import PICTURE, Shown, TextGeneration
from evomm.adapters.llava_names import shared_names
from evomm.adapters.llm_model import answer, batches, in_chat, padded_left
from evomm.errors import DamagedFile, UsageError


def load(folder: Path, device: str, dtype: torch.dtype) -> LoadedModel:
    """The model in evaluation mode and its processor, padded on the left.

    Raises what `resident.bring_up` and `resident.tokens` does, and DamagedFile for a processor that knows no pictures.
    """
    model = resident.bring_up(AutoModelForImageTextToText, folder, device, dtype, _shared)
    processor = resident.tokens(AutoProcessor, folder)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise DamagedFile(
            f"{folder}: its processor files make a {type(processor).__name__}, which does not read both texts and pictures; "
            "copy processor_config.json and preprocessor_config.json along with the weights"
        )
    padded_left(processor.tokenizer)
    plain = resident.targets(model)
    return LoadedModel({shared: plain[name] for name, shared in shared_names(plain).items()}, (model, processor))


def generate(model: LoadedModel, prompts: Sequence[str | Shown], options: TextGeneration) -> Sequence[str]:
    """Answers without the prompt, in the order of the prompts; pictures are prepared batch by batch."""
    network, processor = model.parts
    texts = [_written(prompt, processor, options.chat) for prompt in prompts]
    seen = [isinstance(prompt, Shown) for prompt in prompts]
    lengths = [len(ids) for ids in processor.tokenizer(texts)["input_ids"]] if texts else []
    answers = [""] * len(prompts)
    for kind in (True, False):  # a processor takes a picture for every text, or for none
        places = [i for i, shown in enumerate(seen) if shown == kind]
        for batch in batches([lengths[i] for i in places], options.batch):
            chosen = [places[i] for i in batch]
            pictures = {"images": [prompts[i].picture for i in chosen]} if kind else {}  # type: ignore[union-attr]
            inputs = processor(text=[texts[i] for i in chosen], padding=True, return_tensors="pt", **pictures)
            if "pixel_values" in inputs:
                inputs["pixel_values"] = inputs["pixel_values"].to(network.dtype)
            for i, text in zip(chosen, answer(network, processor.tokenizer, inputs, options), strict=True):
                answers[i] = text
    return answers


def _written(prompt: str | Shown, processor: Any, chat: bool) -> str:
    """The prompt as the model reads it, with its own token where the picture goes."""
    text = prompt.text if isinstance(prompt, Shown) else prompt
    if not chat:
        return text.replace(PICTURE, _image_token(processor)) if isinstance(prompt, Shown) else text
    said = text.replace(PICTURE, "").strip()
    return in_chat(processor, [*([{"type": "image"}] if isinstance(prompt, Shown) else []), {"type": "text", "text": said}])


def _image_token(processor: Any) -> str:
    token = getattr(processor, "image_token", None)
    if token is None:
        raise UsageError(f"a {type(processor).__name__} names no token for pictures; ask with `chat: true`")
    return str(token)


def _shared(names: Iterable[str], prefix: str) -> Mapping[str, str]:
    return shared_names(names)
