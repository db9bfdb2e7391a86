"""The pictures: 995 emoji by two vendors from ``../emoji/emoji64.npz``, and the concepts that the demo draws.

Pictures are float tensors (N, 3, H, W) in 0..1 on white. Whatever moves a picture works at 64 pixels and reduces to 32
afterwards, so that moved pictures are as sharp as unmoved ones.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

DATA = Path(__file__).resolve().parents[1] / "emoji" / "emoji64.npz"
VENDORS = ("twitter", "google")
LANGUAGES = ("en", "ja")
SIZE = 32

# What the demo draws: one thing each, known at 32 pixels, with a name of its own in both languages.
CONCEPTS = {
    "animals": "🐵🐶🐺🦊🐱🦁🐯🐴🦄🦓🐮🐷🐗🐑🐫🦒🐘🐭🐹🐰🐻🐨🐼🐔🐧🦆🦢🦉🦩🐸🐢🐍🐳🐬🐟🦈🐙🦀🐌🦋🐝🐞",
    "plants": "🌸🌹🌺🌻🌷🌲🌳🌴🌵🍀🍁🍄",
    "food": "🍇🍉🍊🍋🍌🍍🍎🍏🍐🍑🍒🍓🥝🥑🍆🥕🌽🥦🥐🥞🧀🍔🍟🍕🌭🥚🍳🍙🍜🍣🍡🍦🍩🍪🍰🍭🍮🍺🍷🥤",
    "things": "🚗🚌🚲🚀⛵🏠⭐🌙🔥⛄⚽🏀🎸🎺📷💡📕🔑🔔🎁🎈👑👟🎩🌂☂",
}
HELD_OUT = 240  # concepts whose Noto drawing the scorer never sees in training


@dataclass(frozen=True)
class Emoji:
    """All rows of the data: drawings (2, N, 3, 64, 64) by vendor, and captions by language."""

    drawings: torch.Tensor
    emoji: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    keywords: dict[str, tuple[tuple[str, ...], ...]]


@cache
def load() -> Emoji:
    """Read the data."""
    with np.load(DATA, allow_pickle=False) as data:
        drawings = torch.stack([torch.from_numpy(data[vendor]).permute(0, 3, 1, 2).float() / 255 for vendor in VENDORS])
        return Emoji(
            drawings=drawings,
            emoji=tuple(map(str, data["emoji"])),
            names={language: tuple(map(str, data[language])) for language in LANGUAGES},
            keywords={
                language: tuple(tuple(str(words).split("|")) for words in data[f"{language}_keywords"]) for language in LANGUAGES
            },
        )


def concepts() -> dict[int, str]:
    """Row -> category of every concept of the demo, in the data's order."""
    rows = {emoji.replace("\ufe0f", ""): row for row, emoji in enumerate(load().emoji)}
    found = {rows[emoji]: category for category, text in CONCEPTS.items() for emoji in text}
    return dict(sorted(found.items()))


def held_out() -> list[int]:
    """Rows whose Noto drawing is kept for testing the scorer: half of the demo's concepts and a draw of the others."""
    rng = random.Random(20240319)
    own = list(concepts())
    others = [row for row in range(len(load().emoji)) if row not in set(own)]
    chosen = rng.sample(own, len(own) // 2)
    return sorted(chosen + rng.sample(others, HELD_OUT - len(chosen)))


def reduce(pictures: torch.Tensor) -> torch.Tensor:
    """From 64 to 32 pixels, each the mean of four."""
    return functional.avg_pool2d(pictures, pictures.shape[-1] // SIZE)


def move(
    pictures: torch.Tensor,
    generator: torch.Generator,
    *,
    shift: float = 0.0,
    zoom: float = 0.0,
    turn: float = 0.0,
    flip: bool = True,
) -> torch.Tensor:
    """Flip, shift (share of the width), zoom and turn (degrees) each picture at random, with white around it."""
    count = len(pictures)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle, size = uniform(turn) * (math.pi / 180), 1 + uniform(zoom)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(count)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * mirror * size, -angle.sin() * size
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * mirror * size, angle.cos() * size
    theta[:, :, 2] = torch.stack([uniform(2 * shift), uniform(2 * shift)], dim=1)
    grid = functional.affine_grid(theta, list(pictures.shape), align_corners=False)
    return 1 - functional.grid_sample(1 - pictures, grid, padding_mode="zeros", align_corners=False)


def soften(pictures: torch.Tensor, strength: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Blur and wash out pictures of 32 pixels; strength 0..1, one or one per picture.

    At full strength: a Gaussian blur of 1.2 pixels, half of the colour gone, and half of the contrast, towards white.
    """
    amount = torch.as_tensor(strength).expand(len(pictures))[:, None, None, None]
    steps = torch.arange(-3, 4)
    kernel = torch.exp(-0.5 * (steps / 1.2) ** 2)
    kernel = (kernel / kernel.sum()).repeat(3, 1)
    blurred = functional.pad(pictures, (3, 3, 3, 3), mode="replicate")
    blurred = functional.conv2d(blurred, kernel[:, None, None, :], groups=3)
    blurred = functional.conv2d(blurred, kernel[:, None, :, None], groups=3)
    grey = blurred.mean(dim=1, keepdim=True)
    washed = 1 - 0.5 * (1 - (0.5 * blurred + 0.5 * grey))
    return pictures + amount * (washed - pictures)
