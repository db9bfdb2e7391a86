"""LoRAs of the tiny pipeline in every naming that is in use, and what diffusers makes of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.checkpoints.pipeline_kit import tensors_of, tiny_pipeline

Factors = Mapping[str, tuple[Tensor, Tensor]]  # module, component first -> A, B
RANK = 4
UNET = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.2.attentions.1.transformer_blocks.1.attn2.to_v",
    "up_blocks.0.attentions.2.transformer_blocks.1.attn1.to_out.0",
    "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
    "mid_block.attentions.0.proj_in",
    "up_blocks.1.attentions.1.proj_out",
)
CONVOLUTIONS = (
    "conv_in",
    "conv_out",
    "down_blocks.0.resnets.1.conv1",
    "down_blocks.1.resnets.0.conv_shortcut",
    "down_blocks.1.resnets.0.time_emb_proj",
    "down_blocks.1.downsamplers.0.conv",
    "mid_block.resnets.1.conv2",
    "up_blocks.0.upsamplers.0.conv",
    "time_embedding.linear_1",
)
TEXT = (
    "encoder.layers.0.self_attn.q_proj",
    "encoder.layers.1.self_attn.k_proj",
    "encoder.layers.1.self_attn.v_proj",
    "encoder.layers.0.self_attn.out_proj",
    "encoder.layers.1.mlp.fc1",
)
MODULES = (
    *(f"unet.{name}" for name in UNET + CONVOLUTIONS),
    *(f"{component}.text_model.{name}" for component in ("text_encoder", "text_encoder_2") for name in TEXT),
)


def factors(modules: tuple[str, ...] = MODULES, rank: int = RANK, seed: int = 1) -> Factors:
    """Random A and B for these modules of the tiny pipeline."""
    generator = torch.Generator().manual_seed(seed)
    infos, made = tensors_of(tiny_pipeline()), {}
    for module in modules:
        out, *ins = infos[f"{module}.weight"].shape
        kernel = (1,) * (len(ins) - 1)
        a, b = (torch.randn(size, generator=generator) * 0.2 for size in ((rank, *ins), (out, rank, *kernel)))
        made[module] = (a, b)
    return made


def peft(module: str) -> tuple[str, str]:
    """As diffusers writes it today."""
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def older(module: str) -> tuple[str, str]:
    """As diffusers wrote it before it used peft."""
    for new, old in {"to_q": "to_q_lora", "to_k": "to_k_lora", "to_v": "to_v_lora", "to_out.0": "to_out_lora"}.items():
        if module.startswith("unet.") and module.endswith(f".{new}"):
            stem = f"{module.removesuffix(new)}processor.{old}"
            return f"{stem}.down.weight", f"{stem}.up.weight"
    for new, old in {"q_proj": "to_q_lora", "k_proj": "to_k_lora", "v_proj": "to_v_lora", "out_proj": "to_out_lora"}.items():
        if module.endswith(f".{new}"):
            stem = module.removesuffix(new) + old
            return f"{stem}.down.weight", f"{stem}.up.weight"
    word = "lora" if module.startswith("unet.") else "lora_linear_layer"
    return f"{module}.{word}.down.weight", f"{module}.{word}.up.weight"


def kohya(module: str) -> tuple[str, str]:
    """As kohya's tools write it for UNets in diffusers' naming."""
    component, _, inner = module.partition(".")
    stem = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}[component]
    stem += "_" + inner.replace(".", "_")
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"


def original(module: str) -> tuple[str, str]:
    """As kohya's tools write it for SDXL, whose original UNet they train."""
    if not module.startswith("unet."):
        return kohya(module)
    words = module.split(".")[1:]
    wheres = {"down_blocks": _input, "up_blocks": _output, "mid_block": _middle}
    stem = ".".join(wheres[words[0]](words[1:]) if words[0] in wheres else _OUTSIDE[".".join(words)])
    return kohya(f"unet.{stem}")


_OUTSIDE = {
    "conv_in": ["input_blocks.0.0"],
    "conv_out": ["out.2"],
    "time_embedding.linear_1": ["time_embed.0"],
    "time_embedding.linear_2": ["time_embed.2"],
    "add_embedding.linear_1": ["label_emb.0.0"],
    "add_embedding.linear_2": ["label_emb.0.2"],
}
_RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}


def _inner(words: list[str]) -> list[str]:
    return [_RESNET.get(word, word) for word in words]


def _input(words: list[str]) -> list[str]:
    block, kind, number = int(words[0]), words[1], int(words[2])
    if kind == "downsamplers":
        return ["input_blocks", str(3 * block + 3), "0", "op"]
    return ["input_blocks", str(3 * block + number + 1), "0" if kind == "resnets" else "1", *_inner(words[3:])]


def _output(words: list[str]) -> list[str]:
    block, kind, number = int(words[0]), words[1], int(words[2])
    if kind == "upsamplers":
        return ["output_blocks", str(3 * block + 2), "2", "conv"]
    return ["output_blocks", str(3 * block + number), "0" if kind == "resnets" else "1", *_inner(words[3:])]


def _middle(words: list[str]) -> list[str]:
    place = {("resnets", "0"): "0", ("attentions", "0"): "1", ("resnets", "1"): "2"}[words[0], words[1]]
    return ["middle_block", place, *_inner(words[2:])]


def stem_of(key: str) -> str:
    """The key of A without the last two words."""
    return key.rsplit(".", 2)[0]


NAMINGS: Mapping[str, Callable[[str], tuple[str, str]]] = {"peft": peft, "older": older, "kohya": kohya, "original": original}


def write(
    path: Path,
    made: Factors,
    naming: str = "peft",
    alphas: Mapping[str, float] | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A LoRA's file; alphas are of modules."""
    tensors: dict[str, Tensor] = {}
    for module, pair in made.items():
        keys = NAMINGS[naming](module)
        tensors |= {key: tensor.to(dtype).contiguous() for key, tensor in zip(keys, pair, strict=True)}
        if alphas is not None and module in alphas:
            tensors[stem_of(keys[0]) + ".alpha"] = torch.tensor(alphas[module])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})
    return path


def fused(path: Path, scale: float = 1.0) -> Mapping[str, Tensor]:
    """The tiny pipeline's tensors after diffusers has put a LoRA in."""
    pipeline: Any = tiny_pipeline(dtype=torch.float32)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    pipeline.fuse_lora(components=["unet", "text_encoder", "text_encoder_2"], lora_scale=scale)
    pipeline.unload_lora_weights()
    return tensors_of(pipeline)


def by_hand(made: Factors, scaling: Mapping[str, float], scale: float = 1.0) -> Mapping[str, Tensor]:
    """The tiny pipeline's tensors with scale · scaling · B @ A added."""
    tensors = dict(tensors_of(tiny_pipeline(dtype=torch.float32)))
    for module, (a, b) in made.items():
        name = f"{module}.weight"
        delta = torch.einsum("or,r...->o...", b.flatten(1), a)
        tensors[name] = tensors[name] + scale * scaling.get(module, 1.0) * delta
    return tensors
