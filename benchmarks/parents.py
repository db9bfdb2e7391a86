"""Makes parents of a real architecture and size with random weights, for benchmarks.

    python -m benchmarks.parents --shape 1.1b --parents 2 --out /tmp/parents

Writes OUT/0, OUT/1, ... as Hugging Face folders in bfloat16 (LlamaForCausalLM, the TinyLlama-1.1B shape by default).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from evomm import CheckpointWriter, TensorInfo

SHAPES = {
    "tiny": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4},
    "1.1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24},
    "7b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
VOCABULARY = 32_000
KEY_VALUE_HEADS = 4


def config(shape: str) -> dict[str, object]:
    """The config.json of a shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        **SHAPES[shape],
    }


def shapes(shape: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor of a Llama."""
    size = SHAPES[shape]
    d, ff = size["hidden_size"], size["intermediate_size"]
    kv = d // size["num_attention_heads"] * KEY_VALUE_HEADS
    yield "model.embed_tokens.weight", (VOCABULARY, d)
    for layer in range(size["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (d,)
        yield f"{at}.mlp.down_proj.weight", (d, ff)
        yield f"{at}.mlp.gate_proj.weight", (ff, d)
        yield f"{at}.mlp.up_proj.weight", (ff, d)
        yield f"{at}.post_attention_layernorm.weight", (d,)
        yield f"{at}.self_attn.k_proj.weight", (kv, d)
        yield f"{at}.self_attn.o_proj.weight", (d, d)
        yield f"{at}.self_attn.q_proj.weight", (d, d)
        yield f"{at}.self_attn.v_proj.weight", (kv, d)
    yield "model.norm.weight", (d,)
    yield "lm_head.weight", (VOCABULARY, d)


def make(shape: str, folder: Path, seed: int) -> None:
    """Write one parent, tensor by tensor."""
    infos = {name: TensorInfo(torch.bfloat16, size) for name, size in shapes(shape)}
    generator = torch.Generator().manual_seed(seed)
    with CheckpointWriter(folder, infos) as writer:
        for name, info in infos.items():
            values = torch.randn(info.shape, generator=generator).mul_(0.02) if len(info.shape) > 1 else torch.ones(info.shape)
            writer.write(name, values.bfloat16())
        writer.text("config.json", json.dumps(config(shape), indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1.1b")
    parser.add_argument("--parents", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for seed in range(options.parents):
        folder = options.out / str(seed)
        if not folder.exists():
            make(options.shape, folder, seed)
            print(folder)


if __name__ == "__main__":
    main()
