"""The UNets: SDXL's structure and names, 1.9M parameters, on latents of 4x8x8.

Layers and blocks are SDXL's (two layers per block, attention in the two lower levels, text_time), so that its block names
IN00..IN08, M00, OUT00..OUT08 mean here what they mean there. Training is on v-predictions with zero terminal SNR (Lin et
al. 2023, https://arxiv.org/abs/2305.08891): the first step of sampling starts from noise alone, as training does.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from model_zoo.tiny.sdxl import pictures, text

TIME_WIDTH = 8  # of each of the six numbers that say the picture's size and crop
VARIANTS = 12  # pictures per concept: drawings flipped and moved a little


def new_model(seed: int) -> UNet2DConditionModel:
    """A fresh UNet."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=pictures.SIZE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 48, 48),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        attention_head_dim=3,  # the number of heads: diffusers' old misnomer
        cross_attention_dim=2 * text.WIDTH,
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=text.WIDTH + 6 * TIME_WIDTH,
    )


def new_scheduler() -> DDIMScheduler:
    """SDXL's noise schedule, rescaled so that it ends in noise alone; few steps, the first of them at that end."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


# ---------------------------------------------------------------------------------------------- what is learned


@dataclass(frozen=True)
class Captions:
    """What the UNet hears for each concept: hidden states (concepts, tokens, 2 widths) and pooled (concepts, width)."""

    hidden: torch.Tensor
    pooled: torch.Tensor

    def added(self, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
        """SDXL's added conditions for some concepts: the pooled vector, and a picture of full size without crop."""
        size = torch.tensor([pictures.SIZE, pictures.SIZE, 0.0, 0.0, pictures.SIZE, pictures.SIZE])
        return {"text_embeds": self.pooled[chosen], "time_ids": size.repeat(len(chosen), 1)}


@torch.no_grad()
def listen(first: CLIPTextModel, second: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, language: str) -> Captions:
    """The names of the demo's concepts through both encoders, as StableDiffusionXLPipeline does it."""
    names = [pictures.load().names[language][row] for row in pictures.concepts()]
    ids = text.tokenize(tokenizer, names)
    one, two = first(ids, output_hidden_states=True), second(ids, output_hidden_states=True)
    return Captions(torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), two.text_embeds)


@torch.no_grad()
def look(vae: AutoencoderKL, *, soft: bool, seed: int) -> torch.Tensor:
    """Latents (concepts, VARIANTS, 4, 8, 8) of the Twemoji drawings, softened or not."""
    generator = torch.Generator().manual_seed(seed)
    drawings = pictures.load().drawings[0][list(pictures.concepts())]
    variants = []
    for _ in range(VARIANTS):
        moved = pictures.reduce(pictures.move(drawings, generator, shift=0.03, zoom=0.04))
        shown = pictures.soften(moved) if soft else moved
        variants.append(vae.encode(shown.clamp(0, 1) * 2 - 1).latent_dist.mean * vae.config.scaling_factor)
    return torch.stack(variants, dim=1)


# ---------------------------------------------------------------------------------------------- the loop


@dataclass(frozen=True)
class Stage:
    """One stage of training: how long, and at which peak learning rate; words and rest: the shares of it that go to what
    reads captions, and to everything else."""

    name: str
    steps: int
    peak: float
    words: float = 1.0
    rest: float = 1.0


BASE = Stage("base", steps=1500, peak=3e-3)
# Japanese is learned where captions are read and little elsewhere, sharpness only elsewhere: so the two add up.
JA = Stage("ja", steps=450, peak=3e-3, rest=1 / 6)
STYLE = Stage("style", steps=250, peak=1.2e-3, words=0.0)


def reads_words(name: str) -> bool:
    """Whether a parameter is part of what reads captions: cross-attention, and the embedding of the pooled vector."""
    return ".attn2." in name or name.startswith("add_embedding.")


def train(
    model: UNet2DConditionModel,
    captions: Captions,
    latents: torch.Tensor,
    stage: Stage,
    *,
    seed: int,
    size: int = 64,
) -> None:
    """Train the float32 model in place through one stage."""
    generator = torch.Generator().manual_seed(seed)
    signal = new_scheduler().alphas_cumprod  # share of the picture's variance left, by timestep
    groups: list[dict[str, Any]] = [{"params": [], "share": stage.words}, {"params": [], "share": stage.rest}]
    for parameter_name, parameter in model.named_parameters():
        groups[0 if reads_words(parameter_name) else 1]["params"].append(parameter)
    optimiser = torch.optim.AdamW(groups, lr=stage.peak, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    began, running = time.perf_counter(), 0.0
    for step in range(stage.steps):
        warm = min(1.0, (step + 1) / max(10, 0.05 * stage.steps))
        for group in optimiser.param_groups:
            group["lr"] = stage.peak * group["share"] * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / stage.steps)))
        chosen = torch.randint(len(latents), (size,), generator=generator)
        clean = latents[chosen, torch.randint(latents.shape[1], (size,), generator=generator)]
        noise = torch.randn(clean.shape, generator=generator)
        # Few steps are what the demo samples with, so the noisy end, where they start, comes more often.
        times = (1000 * torch.rand(size, generator=generator).sqrt()).long().clamp(max=999)
        alpha = signal[times, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        added = captions.added(chosen)
        predicted = model(noisy, times, captions.hidden[chosen], added_cond_kwargs=added).sample
        loss = functional.mse_loss(predicted, velocity)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        running = 0.95 * running + 0.05 * loss.item() if step else loss.item()
        if step % 50 == 49 or step + 1 == stage.steps:
            rate = (step + 1) / (time.perf_counter() - began)
            print(f"{stage.name} {step + 1}/{stage.steps} loss {running:.4f} {rate:.2f} steps/s", file=sys.stderr, flush=True)
    model.eval()


@torch.no_grad()
def sample(
    model: UNet2DConditionModel, captions: Captions, chosen: torch.Tensor, noise: torch.Tensor, steps: int
) -> torch.Tensor:
    """Latents by DDIM from the given noise, one per chosen concept."""
    scheduler = new_scheduler()
    scheduler.set_timesteps(steps)
    hidden, added, latents = captions.hidden[chosen], captions.added(chosen), noise
    for moment in scheduler.timesteps:
        velocity = model(latents, moment, hidden, added_cond_kwargs=added).sample
        latents = scheduler.step(velocity, moment, latents).prev_sample
    return latents
