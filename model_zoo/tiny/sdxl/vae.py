"""The VAE: 32x32 pictures to latents of 4x8x8 and back (AutoencoderKL)."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from model_zoo.tiny.sdxl import pictures

SHARED = 0.6  # share of the steps that train both halves; then the decoder goes on alone, and latents stay what they are
KL = 2e-4
Draw = Callable[[torch.Generator, int], torch.Tensor]
EDGES = 0.5  # weight of the differences between neighbouring pixels, which keep outlines sharp


def new_model(seed: int) -> AutoencoderKL:
    """A fresh VAE of 0.8M parameters."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(24, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=pictures.SIZE,
        scaling_factor=1.0,
        force_upcast=False,
        mid_block_add_attention=False,
    )


def draw(generator: torch.Generator, count: int) -> torch.Tensor:
    """Pictures to learn from: any emoji by any vendor, moved, half of them softened by a random strength."""
    drawings = pictures.load().drawings.flatten(0, 1)
    chosen = drawings[torch.randint(len(drawings), (count,), generator=generator)]
    moved = pictures.reduce(pictures.move(chosen, generator, shift=0.06, zoom=0.1))
    strength = torch.rand(count, generator=generator) * (torch.rand(count, generator=generator) < 0.5)
    return pictures.soften(moved, strength).clamp(0, 1) * 2 - 1


def draw_demo(generator: torch.Generator, count: int) -> torch.Tensor:
    """What the UNets will draw, three times in four: the demo's Twemoji drawings, unsoftened."""
    drawings = pictures.load().drawings[0][list(pictures.concepts())]
    own = 3 * count // 4
    chosen = drawings[torch.randint(len(drawings), (own,), generator=generator)]
    moved = pictures.reduce(pictures.move(chosen, generator, shift=0.03, zoom=0.04)).clamp(0, 1) * 2 - 1
    return torch.cat([moved, draw(generator, count - own)])


def train(model: AutoencoderKL, *, steps: int, polish: int, seed: int) -> None:
    """Train the float32 model in place, set the scaling factor so that latents have unit variance, polish the decoder."""
    _loop(model, draw, name="vae", steps=steps, both=int(SHARED * steps), peak=2e-3, seed=seed)
    with torch.no_grad():
        pool = draw(torch.Generator().manual_seed(seed), 512)
        deviation = model.encode(pool).latent_dist.mean.std().item()
    model.register_to_config(scaling_factor=round(1 / deviation, 2))
    _loop(model, draw_demo, name="vae decoder", steps=polish, both=0, peak=1e-3, seed=seed + 1)


def _loop(model: AutoencoderKL, draw: Draw, *, name: str, steps: int, both: int, peak: float, seed: int, size: int = 32) -> None:
    """Train both halves for the first steps, then the decoder alone."""
    generator = torch.Generator().manual_seed(seed)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.0)
    began = time.perf_counter()
    for step in range(steps):
        progress = step / steps
        for group in optimiser.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 40) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        images = draw(generator, size)
        with torch.autocast("cpu", torch.bfloat16):
            if step < both:
                hidden = model.encode(images).latent_dist
                noise = torch.randn(hidden.mean.shape, generator=generator)
                latents, kl = hidden.mean + hidden.std * noise, hidden.kl().mean() / images[0].numel()
            else:
                with torch.no_grad():
                    latents, kl = model.encode(images).latent_dist.mean, torch.zeros(())
            drawn = model.decode(latents).sample.float()
        loss = functional.l1_loss(drawn, images) + functional.mse_loss(drawn, images) + KL * kl.float()
        for axis in (2, 3):
            loss = loss + EDGES * functional.l1_loss(drawn.diff(dim=axis), images.diff(dim=axis))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 49 or step + 1 == steps:
            rate = (step + 1) / (time.perf_counter() - began)
            error = functional.mse_loss(drawn.detach().clamp(-1, 1), images).item() / 4
            psnr = -10 * math.log10(error)
            print(f"{name} {step + 1}/{steps} PSNR {psnr:.1f} {rate:.2f} steps/s", file=sys.stderr, flush=True)
    model.eval()
