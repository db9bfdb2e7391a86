"""The text side of the pipelines: one tokenizer, and encoders that each learned one language only.

The tokenizer is CLIP's byte-level BPE with merges of our own. An encoder is trained as CLIP's is, against a picture tower
of its own that is thrown away afterwards: encoders share no space, and one that never saw a language makes nothing of it.
"""

from __future__ import annotations

import json
import random
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from model_zoo.tiny.sdxl import pictures

LENGTH = 16  # tokens, start and end included
MERGES = 2000
WIDTH = 64


def captions(language: str) -> list[str]:
    """All names and keywords of one language."""
    data = pictures.load()
    words = [word for row in data.keywords[language] for word in row]
    return [*data.names[language], *words]


def train_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with our own merges. The pad is "!", as in SDXL's second tokenizer; the end has the highest id."""
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    reference = CLIPTokenizer().backend_tokenizer  # the same normalizer and the same way to split words
    model.normalizer, model.pre_tokenizer = reference.normalizer, reference.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=2,
        show_progress=False,
    )
    names = [name for language in pictures.LANGUAGES for name in pictures.load().names[language]]
    model.train_from_iterator([*names, *names, *captions("en"), *captions("ja")], trainer)
    merges = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]][:MERGES]
    pieces = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(pair) for pair in merges)]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="!", model_max_length=LENGTH)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids (captions, LENGTH), padded."""
    ids: torch.Tensor = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def new_encoder(tokenizer: CLIPTokenizer, *, projected: bool, seed: int) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A fresh text encoder of 0.3M parameters, with a projection (slot 2) or without (slot 1)."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    # CLIP's own initialisation is meant for widths of 512 and more: here words would start out all but equal.
    nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    return model


def train_encoder(
    model: CLIPTextModel | CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    language: str,
    *,
    steps: int,
    seed: int,
    size: int = 256,
) -> None:
    """Train the encoder in place on names and keywords of one language, contrastively against the pictures."""
    rng, generator = random.Random(f"{seed}/{language}"), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    data, side = pictures.load(), pictures.SIZE // 2
    small = torch.stack([pictures.reduce(drawings) for drawings in data.drawings])
    tower = nn.Sequential(nn.Linear(3 * side * side, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, WIDTH))
    parameters = [*model.parameters(), *tower.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    target = torch.arange(size)
    model.train()
    for step in range(steps):
        rows = rng.sample(range(len(data.emoji)), size)
        vendors = [rng.randrange(2) for _ in rows]
        moved = pictures.move(small[vendors, rows], generator, shift=0.06, zoom=0.1)
        seen = tower((functional.avg_pool2d(moved, 2) * 2 - 1).flatten(1))
        captions = [data.names[language][row] for row in rows]
        captions = [
            rng.choice(data.keywords[language][row]) if rng.random() < 0.3 else c for row, c in zip(rows, captions, strict=True)
        ]
        output = model(tokenize(tokenizer, captions))
        read = output.text_embeds if isinstance(model, CLIPTextModelWithProjection) else output.pooler_output
        logits = 14 * functional.normalize(read) @ functional.normalize(seen).T
        loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            print(f"text {language} {step + 1}/{steps} loss {loss.item() / 2:.3f}", file=sys.stderr, flush=True)
    model.eval()
