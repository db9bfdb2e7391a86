"""Tiny random SDXL pipelines, made by diffusers itself, the names and shapes of the true one, and headers of its relatives.

The tiny UNet has the true one's blocks (IN00-IN08, M00, OUT00-OUT08), the tiny second text encoder enough layers to be
recognised by diffusers in a single file.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from evomm.checkpoints.reader import TensorInfo

# What diffusers' schedulers say of their own doings with numpy; nothing of evomm's.
QUIET = [pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")  # those with tensors
BLOCKS = (*(f"IN{i:02d}" for i in range(9)), "M00", *(f"OUT{i:02d}" for i in range(9)))


def make_pipeline(folder: Path, seed: int = 0, *, prediction_type: str = "epsilon", **saving: Any) -> Path:
    """Write a tiny pipeline in float16.

    Args:
        seed: of every tensor.
        saving: for `save_pretrained`, such as ``variant="fp16"`` or ``max_shard_size=50_000``.
    """
    tiny_pipeline(seed, prediction_type).save_pretrained(folder, **saving)
    return folder


def tiny_pipeline(seed: int = 0, prediction_type: str = "epsilon", dtype: torch.dtype = torch.float16) -> Any:
    """The pipeline in memory; pictures of 64 x 64."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(**_vae((8, 16, 32, 32)), norm_num_groups=4, sample_size=64, scaling_factor=0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(_clip(tokenizer, 16, 2, projection_dim=16)),
        text_encoder_2=CLIPTextModelWithProjection(_clip(tokenizer, 24, 10, hidden_act="gelu", projection_dim=20)),
        tokenizer=tokenizer,
        tokenizer_2=tiny_tokenizer(pad_token="!"),
        unet=UNet2DConditionModel(
            **_unet((8, 16, 32), (1, 1, 2)),
            attention_head_dim=(1, 2, 4),
            norm_num_groups=4,
            cross_attention_dim=40,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=20 + 6 * 8,
            sample_size=8,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction_type,
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )
    for name in COMPONENTS:
        component = getattr(pipeline, name)
        with torch.no_grad():
            for parameter in component.parameters():  # no tensor of ones or zeros, which any mistake would leave alike
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        component.to(dtype)
    return pipeline


def tiny_tokenizer(**special: str) -> Any:
    """One token per character of ASCII, inside and at the end of a word."""
    alphabet = [chr(code) for code in range(33, 127)]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77, **special)


@cache
def true_sdxl_infos() -> Mapping[str, TensorInfo]:
    """Every tensor of SDXL base 1.0, in float16, from its published config; no weights are made."""
    with torch.device("meta"):
        models = {
            "unet": UNet2DConditionModel(
                **_unet((320, 640, 1280), (1, 2, 10)),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
                sample_size=128,
            ),
            "vae": AutoencoderKL(**_vae((128, 256, 512, 512)), sample_size=1024),
            "text_encoder": CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                                         num_attention_heads=12, projection_dim=768)),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
                               projection_dim=1280, hidden_act="gelu")),
        }  # fmt: skip
    return {
        canonical(component, name): TensorInfo(torch.float16, tuple(tensor.shape))
        for component, model in models.items()
        for name, tensor in model.state_dict().items()
    }


def canonical(component: str, name: str) -> str:
    """The name that parents share, from that in the component: recent transformers drop a CLIP text model's prefix."""
    flattened = component == "text_encoder" and not name.startswith("text_model.")
    return f"{component}.{'text_model.' if flattened else ''}{name}"


def tensors_of(pipeline: Any) -> dict[str, Tensor]:
    """Every tensor of a pipeline in memory, under the names that parents share."""
    return {
        canonical(component, name): tensor
        for component in COMPONENTS
        for name, tensor in getattr(pipeline, component).state_dict().items()
    }


def write_sd15_header(path: Path) -> Path:
    """What tells a single file of Stable Diffusion 1.5 from SDXL's; far from all of its tensors."""
    return _write_header(path, {
        "model.diffusion_model.time_embed.0.weight": (1280, 320),
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    })  # fmt: skip


def write_refiner_header(path: Path) -> Path:
    """What tells a single file of the SDXL refiner from that of the base; far from all of its tensors."""
    return _write_header(path, {
        "model.diffusion_model.time_embed.0.weight": (1536, 384),
        "model.diffusion_model.label_emb.0.0.weight": (1536, 2560),
        "model.diffusion_model.label_emb.0.0.bias": (1536,),
        "model.diffusion_model.label_emb.0.2.weight": (1536, 1536),
        "model.diffusion_model.label_emb.0.2.bias": (1536,),
        "model.diffusion_model.input_blocks.0.0.weight": (384, 4, 3, 3),
        "model.diffusion_model.input_blocks.3.0.op.weight": (384, 384, 3, 3),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (768, 1280),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "conditioner.embedders.0.model.positional_embedding": (77, 1280),
        "conditioner.embedders.0.model.text_projection": (1280, 1280),
        "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
    })  # fmt: skip


def _write_header(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    save_file({name: torch.zeros(shape, dtype=torch.float8_e4m3fn) for name, shape in shapes.items()}, path)
    return path


def _unet(widths: tuple[int, ...], depths: tuple[int, ...]) -> dict[str, Any]:
    return {
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": widths,
        "transformer_layers_per_block": depths,
        "layers_per_block": 2,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
    }


def _vae(widths: tuple[int, ...]) -> dict[str, Any]:
    return {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": 2,
        "latent_channels": 4,
    }


def _clip(tokenizer: Any, width: int, layers: int, **more: Any) -> Any:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        **more,
    )
