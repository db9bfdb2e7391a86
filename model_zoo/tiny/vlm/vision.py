"""The vision tower: a small CLIP vision model, trained to tell emoji apart and then left as it is.

It learns from all drawings but the held-out ones, those of concepts that nobody is asked about too: which emoji it is,
which subgroup of Unicode's, which of CLDR's keywords it has, and its leading colour, each read off the mean of the patches.
The readers are thrown away; what stays is what LLaVA reads, the patches of the last layer.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "llm"))

from train import fast_bfloat16

from model_zoo.tiny.sdxl import pictures
from model_zoo.tiny.vlm import world

SIDE, PATCH, WIDTH = 64, 16, 128
PATCHES = (SIDE // PATCH) ** 2
PEAK, MUON_PEAK = 2e-3, 8e-3
NONE = -100  # no leading colour
COMMON = 4
KEYWORDS_COUNT = 20.0  # their share of the loss: a mean over keywords, of which most are absent


def new_tower(seed: int) -> CLIPVisionModel:
    """A fresh vision tower of 0.9M parameters."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    model = CLIPVisionModel(config)
    for parameter in model.parameters():  # CLIP's own initialisation is meant for widths of 768 and more
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.05)
    return model


def patches(tower: CLIPVisionModel, drawings: torch.Tensor) -> torch.Tensor:
    """What LLaVA reads of drawings (N, 3, 64, 64) in -1..1: (N, PATCHES, WIDTH)."""
    seen: torch.Tensor = tower(pixel_values=drawings, output_hidden_states=True).hidden_states[-1]
    return seen[:, 1:]


def drawings(rows: list[tuple[int, int]], generator: torch.Generator | None = None) -> torch.Tensor:
    """Drawings (row, vendor) as the tower takes them, or variations of them when there is a generator."""
    data = pictures.load().drawings
    chosen = torch.stack([data[vendor, row] for row, vendor in rows])
    return (chosen if generator is None else vary(chosen, generator)) * 2 - 1


def vary(chosen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Moved, recoloured, some blurred, some with a hole: what tells a concept apart must survive another hand's drawing it."""
    count = len(chosen)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    moved = pictures.move(chosen, generator, shift=0.1, zoom=0.22, turn=18)
    gain, contrast = uniform(0.92, 1.08, 3, 1, 1), uniform(0.85, 1.15, 1, 1, 1)
    ink = 1 - moved  # so that paper stays white
    coloured = 1 - (ink * contrast * gain).clamp(0, 1)
    soft = functional.avg_pool2d(functional.pad(coloured, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    coloured = torch.where(uniform(0, 1, 1, 1, 1) < 0.3, soft, coloured)
    side, left, top = uniform(8, 24), uniform(0, SIDE), uniform(0, SIDE)
    place = torch.arange(SIDE)
    across = (place >= left[:, None]) & (place < (left + side)[:, None])
    down = (place >= top[:, None]) & (place < (top + side)[:, None])
    hole = (down[:, :, None] & across[:, None, :])[:, None] & (uniform(0, 1, 1, 1, 1) < 0.4)
    return torch.where(hole, torch.ones(()), coloured)


def keyword_table() -> torch.Tensor:
    """(emoji, keyword): 1 where the emoji has it, for English keywords that at least COMMON emoji share."""
    keywords = pictures.load().keywords["en"]
    shared = Counter(word for words in keywords for word in set(words))
    known = sorted(word for word, count in shared.items() if count >= COMMON)
    return torch.tensor([[float(word in words) for word in known] for words in keywords])


def train(tower: CLIPVisionModel, *, steps: int, seed: int, size: int = 96) -> None:
    """Train the tower in place: Muon for its inner matrices, AdamW for the rest."""
    rng, generator = random.Random(f"{seed}/vision"), torch.Generator().manual_seed(seed)
    names, groups = world.subgroups(), sorted(set(world.subgroups()))
    kept = {concept.row for concept in world.held_out()}
    table = [(row, world.TWITTER) for row in range(len(names))]
    table += [(row, world.GOOGLE) for row in range(len(names)) if row not in kept]
    group_of = torch.tensor([groups.index(name) for name in names])
    colour_of = torch.tensor([[NONE if c is None else c for c in colours] for colours in world.colours()])
    keywords = keyword_table()
    counts = (len(names), len(groups), len(world.COLOURS), keywords.shape[1])
    readers = nn.ModuleList([nn.Linear(WIDTH, count) for count in counts])
    norm = nn.LayerNorm(WIDTH)
    inner = [p for name, p in tower.named_parameters() if p.ndim == 2 and "embedding" not in name]
    rest = [p for name, p in tower.named_parameters() if p.ndim != 2 or "embedding" in name]
    rest += [*readers.parameters(), *norm.parameters()]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.05),
        torch.optim.Muon(inner, lr=MUON_PEAK, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: _rate(step, steps)) for one in optimisers]
    tower.train()
    for step in range(steps):
        drawn = rng.sample(table, size)
        rows, vendors = (torch.tensor(column) for column in zip(*drawn, strict=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            seen = norm(patches(tower, drawings(drawn, generator)).mean(1))
            read = [reader(seen).float() for reader in readers]
        loss = (
            functional.cross_entropy(read[0], rows, label_smoothing=0.1)
            + functional.cross_entropy(read[1], group_of[rows], label_smoothing=0.1)
            + functional.cross_entropy(read[2], colour_of[vendors, rows], ignore_index=NONE)
            + KEYWORDS_COUNT * functional.binary_cross_entropy_with_logits(read[3], keywords[rows])
        )
        for optimiser in optimisers:
            optimiser.zero_grad()
        torch.autograd.backward(loss)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        if step % 50 == 49:
            right = (read[0].argmax(1) == rows).float().mean().item()
            print(f"vision {step + 1}/{steps} loss {loss.item():.3f}, {right:.0%} right", file=sys.stderr, flush=True)
    tower.eval()
    _report(tower, norm, readers, group_of, colour_of)


def _rate(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth of the steps, then a cosine down to 2%."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def _report(
    tower: CLIPVisionModel, norm: nn.Module, readers: nn.ModuleList, group_of: torch.Tensor, colour_of: torch.Tensor
) -> None:
    """Say how well the held-out drawings are told apart."""
    rows = torch.tensor([concept.row for concept in world.held_out()])
    seen = norm(patches(tower, drawings([(int(row), world.GOOGLE) for row in rows])).mean(1))
    truth = [rows, group_of[rows], colour_of[world.GOOGLE, rows]]
    for name, reader, right in zip(("which", "group", "colour"), readers, truth, strict=False):
        known = right != NONE
        share = (reader(seen).argmax(1) == right)[known].float().mean().item()
        print(f"vision {name}: {share:.1%} of {int(known.sum())} held-out drawings", file=sys.stderr, flush=True)
