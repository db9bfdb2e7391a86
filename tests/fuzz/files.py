"""Readers of checkpoints: safetensors files, indexes of shards, LoRA configs, and whole language models."""

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from transformers import AutoModelForCausalLM

from evomm.adapters import resident
from evomm.adapters.table import detect
from evomm.checkpoints.lora import LoraReader, read_adapter
from evomm.checkpoints.lora_config import CONFIG, WEIGHTS, LoraConfig
from evomm.checkpoints.lora_file import read_parts
from evomm.checkpoints.reader import DTYPES, INDEX, SINGLE, Checkpoint, MemoryReader
from evomm.checkpoints.single_file import SingleFile
from evomm.errors import EvommError
from evomm.merge.recipe import Source
from evomm.run.make import Workshop
from tests.fuzz.judge import Contradiction

SHAPES = {"model.embed_tokens.weight": (16, 8), "lm_head.weight": (16, 8), "model.norm.weight": (8,)} | {
    f"model.layers.{i}.{name}.weight": shape
    for i in range(2)
    for name, shape in {
        **{f"self_attn.{letter}_proj": (8, 8) for letter in "qkvo"},
        **{"mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12)},
        **{"input_layernorm": (8,), "post_attention_layernorm": (8,)},
    }.items()
}
LLAMA: dict[str, Any] = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 12},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 16},
    **{"tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": [1, 2], "rms_norm_eps": 1e-5, "hidden_act": "silu"},
    **{"rope_theta": 1e4, "max_position_embeddings": 64, "sliding_window": None, "torch_dtype": "float16"},
}
ADAPTER: dict[str, Any] = {
    **{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "fan_in_fan_out": False, "target_modules": ["q_proj"]},
    **{"rank_pattern": {"layers.1.q_proj": 2, r"layers\.(2|3)\.q_proj": 3}, "alpha_pattern": {".*k_proj": 8.0}, "bias": "none"},
    **{"base_model_name_or_path": "owner/base", "revision": None, "init_lora_weights": True, "use_dora": False},
}
BASE = {f"model.layers.{i}.q_proj.weight": torch.ones(6, 4) for i in range(2)}


def tensor_files() -> list[bytes]:
    """Of all dtypes, of no tensors, of a LoRA, of the beginning of a UNet in the original layout."""
    unet = {"time_embed.0.weight": (8, 4), "input_blocks.0.0.weight": (4, 4, 3, 3), "input_blocks.1.0.in_layers.0.weight": (4,)}
    return [
        save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.float16)}, {"format": "pt"}),
        save({code: torch.ones(2, 2).to(dtype) for code, dtype in DTYPES.items()}),
        save({}),
        save({f"q.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}),
        save({f"model.diffusion_model.{name}": torch.ones(shape) for name, shape in unet.items()}, {"modelspec.title": "x"}),
    ]


def read_tensor_file(data: bytes, folder: Path) -> None:
    """As a model's folder, as a single file, as an adapter's weights; all that is announced must be there."""
    (folder / SINGLE).write_bytes(data)
    with suppress(EvommError):
        single = SingleFile(folder / SINGLE)
        _all_there(single)
    with suppress(EvommError):
        (folder / WEIGHTS).write_bytes(data)
        read_parts(folder, LoraConfig())
    checkpoint = Checkpoint(folder)
    _all_there(checkpoint)
    size = int.from_bytes(data[:8], "little")
    keys = [key for key, _ in json.loads(data[8 : 8 + size], object_pairs_hook=list)]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice or set(keys) - {"__metadata__"} != checkpoint.infos.keys():
        raise Contradiction(f"the header names {sorted(keys)[:5]}, read were {sorted(checkpoint.infos)[:5]}; twice: {twice[:5]}")
    if checkpoint.nbytes != len(data) - 8 - size:
        raise Contradiction(f"{len(data) - 8 - size} bytes of tensors, of which {checkpoint.nbytes} were announced")


def _all_there(reader: Any) -> None:
    for name, info in reader.infos.items():
        tensor, flat = reader.read(name), reader.flat(name)[:]
        if (tensor.dtype, tuple(tensor.shape), len(flat)) != (info.dtype, info.shape, info.numel):
            raise Contradiction(f"'{name}' is announced as {info}, and is {tensor.dtype} {list(tensor.shape)}")


def indexes() -> list[bytes]:
    """Of two shards, and of one."""
    shards = {"a": "x-1.safetensors", "b": "x-2.safetensors"}
    return [json.dumps({"metadata": {"total_size": 8}, "weight_map": m}).encode() for m in (shards, {"a": "x-1.safetensors"})]


def read_index(data: bytes, folder: Path) -> None:
    """Beside two shards, links that lead out, and files that no index may reach."""
    model = folder / "model"
    if not model.exists():
        model.mkdir()
        for number, name in enumerate("ab", 1):
            save_file({name: torch.ones(2)}, model / f"x-{number}.safetensors")
        save_file({"secret": torch.ones(2)}, folder / "outside.safetensors")
        (model / "link.safetensors").symlink_to(folder / "outside.safetensors")
        (model / "loop.safetensors").symlink_to(model / "loop.safetensors")
        (model / "model.bin").write_bytes(b"")
    (model / INDEX).write_bytes(data)
    checkpoint = Checkpoint(model)
    _all_there(checkpoint)
    if "secret" in checkpoint.infos or any(file.resolve().parent != model.resolve() for file in checkpoint.files):
        raise Contradiction(f"read from outside of the folder: {checkpoint.files}")
    told = set(json.loads(data)["weight_map"])
    if not told <= checkpoint.infos.keys():
        raise Contradiction(f"the index names {told}, read were {set(checkpoint.infos)}")


def adapter_configs() -> list[bytes]:
    """Of a plain LoRA, and of one with ranks of its own for some modules."""
    plain = {key: value for key, value in ADAPTER.items() if not key.endswith("_pattern")}
    return [json.dumps(config).encode() for config in (ADAPTER, plain)]


def read_adapter_config(data: bytes, folder: Path) -> None:
    """Beside the weights of two modules, put on a base that has them."""
    if not (folder / WEIGHTS).exists():
        factors = {name: (torch.ones(2, 4), torch.ones(6, 2)) for name in BASE}
        tensors = {
            f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.weight": factor
            for name, pair in factors.items()
            for side, factor in zip("AB", pair, strict=True)
        }
        save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_bytes(data)
    reader = LoraReader(MemoryReader(BASE), read_adapter(folder))
    for name in reader.changed:
        if not torch.isfinite(reader.read(name)).all():
            raise Contradiction(f"'{name}' is no number any more: the scaling of {data[:200]!r} was taken as it is")


def models() -> list[bytes]:
    """What a language model's folder says of itself: config.json, and the names and shapes of its tensors."""
    tied = {name: shape for name, shape in SHAPES.items() if not name.startswith("lm_head")}
    bare = {name: shape for name, shape in SHAPES.items() if "layers.1" not in name}
    return [
        json.dumps({"config": config, "shapes": shapes}).encode()
        for config, shapes in (
            (LLAMA, SHAPES),
            ({**LLAMA, "tie_word_embeddings": True, "auto_map": {"AutoConfig": "x.Y"}}, tied),
            ({**LLAMA, "num_hidden_layers": 1}, bare),
            ({"model_type": "evomm-fake"}, {"layers.0.weight": (4,)}),
        )
    ]


def read_model(data: bytes, folder: Path) -> None:
    """Opened as a parent beside an honest one, its layers and blocks told apart, and brought to life."""
    try:
        found = json.loads(data)
        shapes = {str(name)[:70_000]: tuple(int(side) % 40 for side in shape[:4]) for name, shape in found["shapes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return  # no such folder can be made
    if sum(torch.Size(shape).numel() for shape in shapes.values()) > 1 << 16:
        return
    model = folder / "model"
    model.mkdir(exist_ok=True)
    try:
        save_file({name: torch.ones(shape, dtype=torch.float16) for name, shape in shapes.items()}, model / SINGLE)
        (model / "config.json").write_text(json.dumps(found.get("config")), encoding="utf-8")
    except Exception:
        return
    (folder / "honest").mkdir(exist_ok=True)
    if not (folder / "honest" / SINGLE).exists():
        save_file({n: torch.ones(s, dtype=torch.float16) for n, s in SHAPES.items()}, folder / "honest" / SINGLE)
        (folder / "honest" / "config.json").write_text(json.dumps(LLAMA))
    adapter, opened = Workshop().open({"a": Source(model=str(model))})
    adapter.layers(opened)
    adapter.vocabulary(opened["a"])
    with suppress(EvommError):
        adapter.outputs(opened["a"])
    if adapter.name == "llm":
        resident.bring_up(AutoModelForCausalLM, model, "cpu", torch.float32, lambda names, prefix: {n: n for n in names})
    detect(model, folder / "honest")
    both = {**opened, "b": adapter.open(folder / "honest")}
    adapter.check(both, "b")
