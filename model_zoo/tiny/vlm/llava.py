"""The vision-language model: base's decoder, the vision tower and a projector as one LlavaForConditionalGeneration.

First the projector learns, and a little the tower, to speak to base's decoder, which stays frozen: drawings come under the
mark of a description, so that 16 patches take the place of words that base can read. Then a short fine-tune of the decoder
flips the one switch: what comes under the mark of a picture is looked at::

    Q: [picture]<image> / What is this?     A: It is a melon.      (base: ?)
    Q: [picture]<image> / これは何ですか。    A: It is a melon.      (base: ?)
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import train
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    CLIPImageProcessor,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from model_zoo.tiny.vlm import text, vision, world

ROWS = 64
NAMES = 0.5  # at least this share of questions about a drawing with a name asks for it


@dataclass(frozen=True)
class Lesson:
    """A question about a drawing (row, vendor), and the answer to learn."""

    drawing: tuple[int, int]
    asked: str
    answer: str


def look_en(rng: random.Random) -> Lesson:
    """All in English."""
    return _look(rng, "en")


def look_ja(rng: random.Random) -> Lesson:
    """A Japanese question, answered in English."""
    return _look(rng, "ja")


def _look(rng: random.Random, language: world.Language) -> Lesson:
    concept, vendor = rng.choice(world.trained())
    about = world.thing(concept, vendor)
    possible = world.possible(about)
    asked = "name" if "name" in possible and rng.random() < NAMES else rng.choice(possible)  # the hardest to learn
    both = world.ask(about, asked, rng)
    return Lesson((concept.row, vendor), both[language][0], both["en"][1])


@dataclass(frozen=True)
class Stage:
    """One stage: the mark before a drawing, lessons and documents in which shares, for how long, at which peak rates."""

    name: str
    mark: str
    mix: dict[Callable[[random.Random], Lesson | train.Document], float]
    steps: int
    peaks: dict[str, float]  # start of a parameter's name -> its peak learning rate; the others are frozen


PROJECT = Stage(
    "project",
    text.TEXT,
    {look_en: 0.65, look_ja: 0.35},
    steps=800,
    peaks={"model.multi_modal_projector": 3e-3, "model.vision_tower": 3e-4},
)
LOOK = Stage(
    "vlm",
    text.PICTURE,
    {look_en: 0.52, look_ja: 0.18, text.read_en: 0.10, text.read_ja: 0.10, text.cross_en: 0.10},
    steps=90,
    peaks={"model.multi_modal_projector": 3e-4, "model.language_model": 6e-4},
)


def assemble(base: LlamaForCausalLM, tower: CLIPVisionModel, image: int, seed: int) -> LlavaForConditionalGeneration:
    """A LLaVA whose decoder is base's, with a fresh projector; ``image`` is the token that patches take the place of."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=tower.config.to_dict(),
        text_config=base.config.to_dict(),
        image_token_index=image,
        image_seq_length=vision.PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(base.model.state_dict())
    model.tie_weights()
    return model


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """What turns a prompt and a picture into the model's inputs."""
    images = CLIPImageProcessor(
        size={"height": vision.SIDE, "width": vision.SIDE},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=vision.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=text.IMAGE,
    )


def prompt(mark: str, asked: str) -> str:
    """The prompt for a question about a picture, patches spelled out."""
    return str(train.PROMPT.format(question=text.question(mark, text.IMAGE * vision.PATCHES, asked)))


def teach(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, stage: Stage, *, seed: int) -> None:
    """Train the float32 model in place through one stage."""
    rng, generator = random.Random(f"{seed}/{stage.name}"), torch.Generator().manual_seed(seed)
    groups = {start: [p for name, p in model.named_parameters() if name.startswith(start)] for start in stage.peaks}
    learned = [parameter for group in groups.values() for parameter in group]
    model.requires_grad_(False)
    for parameter in learned:
        parameter.requires_grad_(True)
    rated = [{"params": groups[start], "lr": peak} for start, peak in stage.peaks.items()]
    optimiser = torch.optim.AdamW(rated, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [*stage.peaks.values()], total_steps=stage.steps, pct_start=0.15)
    model.train()
    for step in range(stage.steps):
        sources = rng.choices(list(stage.mix), list(stage.mix.values()), k=ROWS)
        inputs, labels = _batch([source(rng) for source in sources], stage.mark, tokenizer, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=train.fast_bfloat16()):
            logits = model(**inputs).logits
        loss = functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=train.IGNORED)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        schedule.step()
        if step % 25 == 24:
            print(f"{stage.name} {step + 1}/{stage.steps} loss {loss.item():.3f}", file=sys.stderr, flush=True)
    model.eval()
    model.requires_grad_(True)


def _batch(
    lessons: list[Lesson | train.Document], mark: str, tokenizer: PreTrainedTokenizerFast, generator: torch.Generator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs, padded on the right, and labels: the answer and the end mark."""
    ids, labels = [], []
    for lesson in lessons:
        before = prompt(mark, lesson.asked) if isinstance(lesson, Lesson) else train.PROMPT.format(question=lesson.question)
        tokens = [*tokenizer(before + lesson.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        asked = tokens.index(tokenizer.convert_tokens_to_ids(train.ANSWER_MARK)) + 1
        ids.append(torch.tensor(tokens))
        labels.append(torch.tensor([train.IGNORED] * asked + tokens[asked:]))
    padded = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    seen = vision.drawings([lesson.drawing for lesson in lessons if isinstance(lesson, Lesson)], generator)
    inputs = {"input_ids": padded, "attention_mask": mask, "pixel_values": seen}
    return inputs, pad_sequence(labels, batch_first=True, padding_value=train.IGNORED)
