"""Makes UNets of SDXL's true shape with random weights, in both layouts that people have, for benchmarks.

    python -m benchmarks.unet_parents --out OUT [--small]

Writes OUT/base.safetensors, OUT/a.safetensors and OUT/b.safetensors in the original layout (``model.diffusion_model.*``), and
OUT/b, the same as b.safetensors, as a diffusers folder (``unet/config.json``, ``unet/diffusion_pytorch_model.safetensors``).
In float16; parents are near the base as fine-tunes are: parent = base + noise of a fortieth of the weights' size.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from benchmarks.parents import NOISE, SCALE
from evomm import CheckpointWriter, TensorInfo
from evomm.checkpoints.layout import pipeline_layout
from evomm.checkpoints.original import original_layout

SINGLES = ("base", "a", "b")
FOLDER = "b"  # the parent that there is as a folder too
CONFIG = {  # https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/unet/config.json
    "_class_name": "UNet2DConditionModel",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "in_channels": 4,
    "layers_per_block": 2,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
SMALL = {  # as many blocks, each smaller
    "addition_time_embed_dim": 8,
    "attention_head_dim": [1, 2, 4],
    "block_out_channels": [32, 64, 128],
    "cross_attention_dim": 64,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
    "sample_size": 8,
    "transformer_layers_per_block": [1, 1, 2],
}


def config(small: bool = False) -> dict[str, object]:
    """What unet/config.json says."""
    return {**CONFIG, **(SMALL if small else {})}


def infos(small: bool = False) -> dict[str, TensorInfo]:
    """Every tensor of the UNet under the name that parents share; no weights are made."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config(small))
    return {f"unet.{name}": TensorInfo(torch.float16, tuple(tensor.shape)) for name, tensor in unet.state_dict().items()}


def make(out: Path, small: bool = False, seed: int = 0) -> None:
    """Write all parents, tensor by tensor; what is there already is left alone."""
    files = {**{f"{name}.safetensors": name for name in SINGLES}, FOLDER: FOLDER}
    if all((out / file).exists() for file in files):
        return
    tensors = infos(small)
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as stack:
        writers = []
        for file, parent in files.items():
            layout = original_layout("xl_base") if file != parent else pipeline_layout()
            writers.append((parent, stack.enter_context(CheckpointWriter(out / file, tensors, layout=layout))))
        for name, values in _weights(tensors, generator):
            for parent, writer in writers:
                writer.write(name, values[parent])
        writers[-1][1].text("unet/config.json", json.dumps(config(small), indent=2) + "\n")


def _weights(tensors: dict[str, TensorInfo], generator: torch.Generator) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Of each tensor, what every parent holds."""
    for name, info in tensors.items():
        base = torch.empty(info.shape).normal_(0, SCALE, generator=generator)
        if ".norm" in name and name.endswith(".weight"):
            base += 1
        base = base.half()
        noise = torch.empty(info.shape)
        near = {parent: noise.normal_(0, NOISE, generator=generator).add_(base).half() for parent in SINGLES[1:]}
        yield name, {SINGLES[0]: base, **near}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="as many blocks, each smaller")
    options = parser.parse_args()
    make(options.out, options.small)


if __name__ == "__main__":
    main()
