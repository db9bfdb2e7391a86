"""Makes parents of a real architecture and size with random weights, for benchmarks.

    python -m benchmarks.parents --shape 1.1b --parents 2 --out OUT [--near]

Writes OUT/0, OUT/1, ... as Hugging Face folders in bfloat16 (LlamaForCausalLM, the TinyLlama-1.1B shape by default).
With --near also OUT/base, and the parents are near it as fine-tunes are: parent = base + noise of a fortieth of the
weights' size. In bfloat16 their task vectors then have few distinct values and many zeros, as real ones do.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from evomm import CheckpointWriter, TensorInfo

SHAPES = {
    "tiny": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4},
    "1.1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24},
    "7b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
VOCABULARY = 32_000
KEY_VALUE_HEADS = 4
SCALE = 0.02  # of the weights
NOISE = SCALE / 40  # of what --near adds to the base: full fine-tunes move weights by about 0.0005 (DARE, arXiv 2311.03099)


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
    generator = torch.Generator().manual_seed(seed)
    with CheckpointWriter(folder, _infos(shape)) as writer:
        for name, size in shapes(shape):
            writer.write(name, _weights(size, generator).bfloat16())
        _finish(writer, shape)


def make_near(shape: str, folder: Path, parents: Sequence[str], seed: int = 0) -> None:
    """Write FOLDER/base and the parents near it, tensor by tensor; what is there already is left alone."""
    names = ("base", *parents)
    if all((folder / name / "config.json").exists() for name in names):
        return
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as stack:
        writers = [stack.enter_context(CheckpointWriter(folder / name, _infos(shape))) for name in names]
        for name, size in shapes(shape):
            base = _weights(size, generator).bfloat16()
            writers[0].write(name, base)
            noise = torch.empty(size)
            for writer in writers[1:]:
                writer.write(name, noise.normal_(0, NOISE, generator=generator).add_(base).bfloat16())
        for writer in writers:
            _finish(writer, shape)


def _weights(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.empty(size).normal_(0, SCALE, generator=generator) if len(size) > 1 else torch.ones(size)


def _infos(shape: str) -> dict[str, TensorInfo]:
    return {name: TensorInfo(torch.bfloat16, size) for name, size in shapes(shape)}


def _finish(writer: CheckpointWriter, shape: str) -> None:
    """The config, and a small tokenizer, so that no tool has to look for one."""
    words = {"<s>": 0, "</s>": 1, "<unk>": 2}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    writer.text("config.json", json.dumps(config(shape), indent=2) + "\n")
    writer.text("tokenizer.json", Tokenizer(WordLevel(words, unk_token="<unk>")).to_str(pretty=True) + "\n")
    writer.text("tokenizer_config.json", json.dumps(kind, indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1.1b")
    parser.add_argument("--parents", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--near", action="store_true", help="also a base, and the parents near it as fine-tunes are")
    options = parser.parse_args()
    labels = [str(seed) for seed in range(options.parents)]
    if options.near:
        make_near(options.shape, options.out, labels)
        return
    for seed, label in enumerate(labels):
        folder = options.out / label
        if not folder.exists():
            make(options.shape, folder, seed)
            print(folder)


if __name__ == "__main__":
    main()
