"""The few-step parent: a LoRA on the base UNet that gets, in one or two steps, close to where its teachers get in sixteen.

The teachers' own samples are the lessons: the same noise and caption must lead to the same picture (progressive
distillation in one go; Salimans and Ho 2022, https://arxiv.org/abs/2202.00512). One LoRA serves two backbones, `base` and
`style`, each matched to itself, so that it learns to take large steps and not what pictures look like.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch.nn import functional

from model_zoo.tiny.sdxl import unet

RANK = 7
TEACHER_STEPS = 16
STARTS = (749, 499, 249)  # where a second step may start: those of 2 and of 4 steps
TARGETS = ["conv1", "conv2", "ff.net.0.proj", "ff.net.2", "to_k", "to_out.0", "to_q", "to_v"]
CONFIG = LoraConfig(
    r=RANK,
    lora_alpha=RANK,  # so that every reader's scale is 1
    init_lora_weights="gaussian",
    target_modules=TARGETS,
)


@dataclass(frozen=True)
class Lessons:
    """What a teacher drew: concepts (N), noise and latents (N, 4, 8, 8)."""

    chosen: torch.Tensor
    noise: torch.Tensor
    drawn: torch.Tensor


def teach(model: UNet2DConditionModel, captions: unet.Captions, *, count: int, seed: int) -> Lessons:
    """Sample a teacher."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(captions.hidden), (count,), generator=generator)
    noise = torch.randn(count, 4, 8, 8, generator=generator)
    parts = zip(torch.split(chosen, 128), torch.split(noise, 128), strict=True)
    return Lessons(chosen, noise, torch.cat([unet.sample(model, captions, c, n, TEACHER_STEPS) for c, n in parts]))


def add_lora(model: UNet2DConditionModel, seed: int) -> None:
    """Put a fresh LoRA on a UNet; only it learns."""
    torch.manual_seed(seed)
    model.requires_grad_(False)
    model.add_adapter(CONFIG)


def _lora(model: UNet2DConditionModel) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if "lora_" in name}


def _share(models: Mapping[str, UNet2DConditionModel]) -> list[torch.nn.Parameter]:
    """Make all backbones use the first one's LoRA; its parameters."""
    first, *others = models.values()
    shared = _lora(first)
    for model in others:
        for name, value in shared.items():
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, value)
    return list(shared.values())


def train(
    backbones: Mapping[str, UNet2DConditionModel],
    captions: unet.Captions,
    *,
    steps: int,
    peak: float,
    lessons: int,
    seed: int,
    size: int = 64,
) -> None:
    """Train one LoRA on all backbones; it stays on each of them."""
    taught = {
        name: teach(model, captions, count=lessons, seed=seed + number) for number, (name, model) in enumerate(backbones.items())
    }
    for model in backbones.values():
        add_lora(model, seed)
    parameters = _share(backbones)
    signal = unet.new_scheduler().alphas_cumprod
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.0)
    names, began, running = list(backbones), time.perf_counter(), 0.0
    for step in range(steps):
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 20)
            group["lr"] = peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        name = names[step % len(names)]
        model, lesson = backbones[name], taught[name]
        pick = torch.randint(lessons, (size,), generator=generator)
        chosen, noise, drawn = lesson.chosen[pick], lesson.noise[pick], lesson.drawn[pick]
        hidden, added = captions.hidden[chosen], captions.added(chosen)
        # At the end of the schedule there is no signal: minus the velocity is the picture.
        last = torch.full((size,), 999)
        guess = -model(noise, last, hidden, added_cond_kwargs=added).sample
        times = torch.tensor(STARTS)[torch.randint(len(STARTS), (size,), generator=generator)]
        alpha = signal[times, None, None, None]
        noisy = alpha.sqrt() * guess.detach() + (1 - alpha).sqrt() * noise
        velocity = model(noisy, times, hidden, added_cond_kwargs=added).sample
        second = alpha.sqrt() * noisy - (1 - alpha).sqrt() * velocity
        loss = functional.smooth_l1_loss(guess, drawn, beta=0.3) + functional.smooth_l1_loss(second, drawn, beta=0.3)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        running = 0.95 * running + 0.05 * loss.item() if step else loss.item()
        if step % 50 == 49 or step + 1 == steps:
            rate = (step + 1) / (time.perf_counter() - began)
            print(f"few {step + 1}/{steps} loss {running:.4f} {rate:.2f} steps/s", file=sys.stderr, flush=True)


def save(model: UNet2DConditionModel, folder: Path) -> None:
    """Write the LoRA of a UNet as diffusers does, in float16."""
    weights = {name: value.half().contiguous() for name, value in get_peft_model_state_dict(model).items()}
    metadata: dict[str, Any] = {"r": RANK, "lora_alpha": RANK, "target_modules": TARGETS}
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=weights, unet_lora_adapter_metadata=metadata)
