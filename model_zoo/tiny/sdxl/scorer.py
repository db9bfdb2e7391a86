"""The scorer: a small open_clip model that says how well a picture shows a Japanese or English caption, and how sharply.

Contrastive as in CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020), with three additions that make its cosine
an honest fitness, where plain CLIP would not care:

- softened pictures of known strength are pulled to a cosine that falls with the strength;
- pictures of nothing (noise, grey, crops), and two pictures in one, are pulled to a low cosine with every caption;
- every wrong pair above a small cosine is pushed down.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch.nn import functional
from transformers import CLIPTokenizer

from model_zoo.tiny.sdxl import pictures, text

PIXELS = 64  # pictures of 32 are enlarged by the model's own preprocessing
SHARP, DROP, WRONG = 0.90, 0.50, 0.20  # the cosines aimed at: of a right picture, lost at full softening, of a wrong one

PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def architecture(vocabulary: int) -> dict[str, Any]:
    """What open_clip_config.json holds under model_cfg."""
    return {
        "embed_dim": 96,
        "vision_cfg": {"image_size": PIXELS, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": {
            "context_length": text.LENGTH,
            "vocab_size": vocabulary,
            "width": 96,
            "heads": 4,
            "layers": 2,
            "hf_tokenizer_name": "tiny",  # the folder's own: for a local folder open_clip takes only that there is a name
            "tokenizer_kwargs": {},
        },
    }


def new_model(vocabulary: int, seed: int) -> open_clip.CLIP:
    """A fresh scorer of 1.8M parameters."""
    torch.manual_seed(seed)
    config = architecture(vocabulary)
    shape = {key: dict(config[key]) for key in ("vision_cfg", "text_cfg")}
    return open_clip.CLIP(embed_dim=config["embed_dim"], **shape)


def prepare(images: torch.Tensor) -> torch.Tensor:
    """From pictures of 32 in 0..1 to what the model sees: enlarged as its preprocessing does, in -1..1."""
    large = functional.interpolate(images, size=(PIXELS, PIXELS), mode="bicubic", antialias=True)
    return large.clamp(0, 1) * 2 - 1


@dataclass(frozen=True)
class Batch:
    """Pictures of 32 for one step: right ones, the same softened, junk; and the rows and the strengths used."""

    rows: list[int]
    sharp: torch.Tensor
    softened: torch.Tensor
    strength: torch.Tensor
    junk: torch.Tensor


class Sampler:
    """Draws batches from the pictures that may be trained on."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng = random.Random(f"{seed}/scorer")
        self.generator = torch.Generator().manual_seed(seed)
        self.size = size
        self.kept = set(pictures.held_out())
        self.waiting: list[int] = []

    def draw(self) -> Batch:
        """The next batch; every concept comes once per round, none twice in a batch."""
        data = pictures.load()
        if len(self.waiting) < self.size:
            self.waiting = self.rng.sample(range(len(data.emoji)), len(data.emoji))
        rows, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
        vendors = [0 if row in self.kept else self.rng.randrange(2) for row in rows]
        large = pictures.move(data.drawings[vendors, rows], self.generator, shift=0.08, zoom=0.15, turn=12)
        sharp = self._tint(pictures.reduce(large))
        half = self.size // 2
        strength = torch.rand(half, generator=self.generator)
        softened = pictures.soften(sharp[:half], strength)
        return Batch(rows, sharp, softened, strength, self._junk(sharp))

    def _uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self.generator)

    def _tint(self, images: torch.Tensor) -> torch.Tensor:
        """Another brightness and tint per picture, and a little noise, as the VAE makes it."""
        count = len(images)
        images = 1 - (1 - images) * (0.85 + 0.3 * self._uniform(count, 3, 1, 1))
        noise = torch.randn(images.shape, generator=self.generator) * 0.05 * self._uniform(count, 1, 1, 1)
        return (images + noise).clamp(0, 1)

    def _junk(self, sharp: torch.Tensor) -> torch.Tensor:
        """Noise of several grains, flat colours, enlarged crops, and mixtures of two pictures."""
        count = self.size // 16
        fine = self._uniform(count, 3, 32, 32)
        coarse = functional.interpolate(self._uniform(count, 3, 8, 8), size=32, mode="bilinear")
        flat = self._uniform(count, 3, 1, 1).expand(count, 3, 32, 32)
        crops = functional.interpolate(sharp[:count, :, 8:20, 8:20], size=32, mode="bilinear")
        mixed = 0.5 * sharp[count : 2 * count] + 0.5 * sharp[2 * count : 3 * count]
        noisy = sharp[-count:] + 0.3 * torch.randn(count, 3, 32, 32, generator=self.generator)
        return torch.cat([fine, coarse, flat, crops, mixed, noisy]).clamp(0, 1)

    def caption(self, row: int, language: str) -> str:
        """The name, a keyword, or both."""
        data = pictures.load()
        name, chance = data.names[language][row], self.rng.random()
        if chance < 0.6:
            return name
        keyword = self.rng.choice(data.keywords[language][row])
        return keyword if chance < 0.85 else f"{name} {keyword}"


def loss_of(model: open_clip.CLIP, batch: Batch, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    """Contrastive loss in both languages, and the cosines of softened, junk and wrong pairs."""
    count, half = len(batch.sharp), len(batch.softened)
    images = prepare(torch.cat([batch.sharp, batch.softened, batch.junk])).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.encode_image(images, normalize=True).float()
        read = model.encode_text(torch.cat(list(tokens.values())), normalize=True).float()
    scale, target = model.logit_scale.exp(), torch.arange(count)
    total = torch.zeros(())
    for texts in read.chunk(len(tokens)):
        cosine = texts @ seen.T  # (captions, pictures)
        right = cosine[:, :count]
        total = total + functional.cross_entropy(scale * cosine, target) + functional.cross_entropy(scale * right.T, target)
        aimed = SHARP - DROP * batch.strength
        total = total + 10 * (cosine[target[:half], count + target[:half]] - aimed).square().mean()
        total = total + 10 * (SHARP - right.diagonal()).relu().square().mean()
        total = total + 10 * (cosine[:, count + half :] - WRONG).relu().square().mean()
        total = total + 10 * (right - torch.eye(count) - WRONG).relu().square().mean()
    return total / len(tokens)


def train(model: open_clip.CLIP, tokenizer: CLIPTokenizer, *, steps: int, seed: int, size: int = 128) -> None:
    """Train the float32 model in place."""
    model.train().to(memory_format=torch.channels_last)
    sampler = Sampler(seed, size)
    plain = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.1}]
    optimiser = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.06)
    began = time.perf_counter()
    for step in range(steps):
        batch = sampler.draw()
        tokens = {}
        for language in pictures.LANGUAGES:
            captions = [sampler.caption(row, language) for row in batch.rows]
            encoded = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
            tokens[language] = encoded.input_ids
        loss = loss_of(model, batch, tokens)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.0)  # so that cosines stay spread out
        if step % 50 == 49 or step + 1 == steps:
            rate = (step + 1) / (time.perf_counter() - began)
            print(f"scorer {step + 1}/{steps} loss {loss.item():.3f} {rate:.2f} steps/s", file=sys.stderr, flush=True)
    model.eval()
