"""Tiny random models for benchmarks.merge_equal: six architectures, a base and three parents near it, three dtypes.

A parent is the base plus noise of a twentieth of each tensor's size; a tenth of the elements are left as they are, so
that task vectors hold exact zeros. The twin is the base again. The vocabulary families have parents whose tokens stand in
another order or are more.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

LABELS = ("base", "a", "b", "c", "twin")
VOCABULARY = 320
LAYERS = 4
NOISE = 0.05
SPECIAL = ("<unk>", "<s>", "</s>")
ADDED: Mapping[str, tuple[str, ...]] = {"b": ("<think>", "</think>", "<pad>", "hello"), "c": ("<think>", "<tool>")}
_WIDTHS: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4}
_LLAMA = {**_WIDTHS, "num_hidden_layers": LAYERS, "num_key_value_heads": 2, "vocab_size": VOCABULARY}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {"model_type": "llama", **_LLAMA, "tie_word_embeddings": False},
    "llama-chat": {"model_type": "llama", **_LLAMA, "tie_word_embeddings": False},
    "llama-tied": {"model_type": "llama", **_LLAMA, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", **_LLAMA, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", **_LLAMA, "tie_word_embeddings": True},
    "gemma2": {"model_type": "gemma2", **_LLAMA, "head_dim": 16, "tie_word_embeddings": True},
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_layer": LAYERS,
        "n_head": 4,
        "vocab_size": VOCABULARY,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "phi": {"model_type": "phi", **_WIDTHS, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY},
    "vocabulary": {"model_type": "llama", **_LLAMA, "tie_word_embeddings": False},
    "vocabulary-tied": {"model_type": "llama", **_LLAMA, "tie_word_embeddings": True},
}


def folder_of(root: Path, family: str, dtype: str, sharded: bool, label: str) -> Path:
    """Where a model is, or will be."""
    return root / f"{family}-{dtype}{'-shards' if sharded else ''}" / label


def make(root: Path, family: str, dtype: str, sharded: bool) -> None:
    """Write the base and its parents, unless they are there."""
    if folder_of(root, family, dtype, sharded, LABELS[-1]).exists():
        return
    transformers_logging.disable_progress_bar()
    settings = dict(FAMILIES[family])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in base.parameters():  # norms and biases are constant otherwise
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    own = getattr(torch, dtype)
    state = {name: parameter.detach().to(own) for name, parameter in base.named_parameters()}
    for number, label in enumerate(LABELS):
        values = state if label in {"base", "twin"} else {name: _near(tensor, number) for name, tensor in state.items()}
        vocabulary, rows = _vocabulary(label) if family.startswith("vocabulary") else _vocabulary("base")
        model = _with(config, values, rows, own)
        folder = folder_of(root, family, dtype, sharded, label)
        model.save_pretrained(folder, max_shard_size="200KB" if sharded else "5GB")
        tokenizer = _tokenizer(vocabulary, ADDED.get(label, ()) if family.startswith("vocabulary") else ())
        if family == "llama-chat" and label in "abc":  # two agree, one does not
            tokenizer.chat_template = f"{{{{ messages[0]['content'] }}}}{'two' if label in 'ab' else 'one'}"
        tokenizer.save_pretrained(folder)


def _near(tensor: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1000 + tensor.numel())
    noise = torch.randn(tensor.shape, generator=generator) * (NOISE * float(tensor.float().square().mean().sqrt()))
    noise[torch.rand(tensor.shape, generator=generator) < 0.1] = 0
    return (tensor.float() + noise).to(tensor.dtype)


def _with(config: Any, values: Mapping[str, Tensor], rows: Tensor, dtype: torch.dtype) -> Any:
    """A model with these weights, its token rows taken in the order of ``rows``; rows beyond the vocabulary are random."""
    config = type(config).from_dict({**config.to_dict(), "vocab_size": len(rows)})
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        value = values[name]
        if value.shape[0] == VOCABULARY and value.dim() == 2:
            more = torch.randn((max(0, len(rows) - VOCABULARY), value.shape[1]), generator=generator) * 0.02
            value = torch.cat([value, more.to(dtype)])[rows]
        parameter.data.copy_(value)
    return model


def _vocabulary(label: str) -> tuple[dict[str, int], Tensor]:
    """Token -> id without added tokens, and for each id the row of the base's embeddings that it gets."""
    letters = "etaoinsh"
    tokens = [*SPECIAL, *sorted(ByteLevel.alphabet()), *(x + y for x in letters for y in letters)]
    tokens = tokens[:VOCABULARY]
    rows = list(range(VOCABULARY))
    if label == "a":  # the same tokens, forty of them in other places
        places = random.Random(0).sample(range(len(SPECIAL), VOCABULARY), 40)
        for place, other in zip(places, places[1:] + places[:1], strict=True):
            rows[place] = other
    vocabulary = {tokens[row]: place for place, row in enumerate(rows)}
    rows += range(VOCABULARY, VOCABULARY + len(ADDED.get(label, ())))
    return vocabulary, torch.tensor(rows)


def _tokenizer(vocabulary: dict[str, int], added: tuple[str, ...]) -> Any:
    merges = [(token[0], token[1]) for token in vocabulary if len(token) == 2]
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=token.startswith("<")) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
