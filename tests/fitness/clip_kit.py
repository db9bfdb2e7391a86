"""Scorers small enough to make on the spot, and pictures to give them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def picture(seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """Noise, another for each seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def flat(colour: str) -> Image.Image:
    """One colour."""
    return Image.new("RGB", (16, 16), colour)


@cache
def network() -> open_clip.CLIP:
    """A random model, the same each time; spread out, so that pictures differ in its eyes."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" not in name and parameter.ndim > 1:
                parameter.mul_(4)
    return model


def make_scorer(folder: Path) -> Path:
    """A folder in open_clip's layout."""
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5] * 3}}))
    save_file(network().state_dict(), folder / "open_clip_model.safetensors")
    return folder
