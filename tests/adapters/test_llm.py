"""Language models of many families: blocks from names, live and disk merges alike, refusals that say why."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from evomm.adapters import llm_model
from evomm.adapters.generation import PICTURE, Shown, TextGeneration
from evomm.adapters.llm import LLMAdapter
from evomm.adapters.llm_model import targets
from evomm.adapters.table import detect
from evomm.errors import DamagedFile, MisfitError, UsageError
from evomm.genome.blocks import Grouping, group
from evomm.merge.engine import Engine
from evomm.merge.live import Live
from evomm.merge.recipe import Recipe
from evomm.resources import resource

LAYERS = 3
SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WIDE = {**SIZE, "intermediate_size": 48}
GROUPED = {**WIDE, "num_key_value_heads": 2}
FAMILIES: dict[str, Any] = {
    "llama, untied": LlamaConfig(**GROUPED),
    "llama, tied": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "mistral": MistralConfig(**GROUPED),
    "qwen2, biases": Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "phi3, fused projections": Phi3Config(**GROUPED),
    "gemma2, four norms": Gemma2Config(**GROUPED, head_dim=8),
    "gpt2, fused and transposed": GPT2Config(n_embd=32, n_layer=LAYERS, n_head=4, vocab_size=64, bos_token_id=1, eos_token_id=2),
    "gpt_neox, fused": GPTNeoXConfig(**WIDE),
    "opt": OPTConfig(**SIZE, ffn_dim=48, word_embed_proj_dim=32),
    "bloom": BloomConfig(hidden_size=32, n_layer=LAYERS, n_head=4, vocab_size=64, bos_token_id=1, eos_token_id=2),
    "falcon, multi-query": FalconConfig(**SIZE),
    "mixtral, experts": MixtralConfig(**GROUPED, num_local_experts=4),
    "qwen2_moe, shared expert": Qwen2MoeConfig(
        **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16
    ),
    "qwen3_moe, experts": Qwen3MoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=8),
}


def parents(config: Any, folder: Path, shard: str = "1GB") -> dict[str, Path]:
    """Three random models of one config."""
    for seed, label in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / label, max_shard_size=shard)
    return {label: folder / label for label in ("base", "a", "b")}


def recipe(method: str = "ties") -> Recipe:
    """A merge of the three."""
    weights = {"weight": {"a": 0.7, "b": 0.9}, "density": 0.5}
    return Recipe.model_validate(
        {
            "method": method,
            "base": "base",
            "parents": {label: {"model": label} for label in ("base", "a", "b")},
            "parameters": weights,
            "dtype": "bfloat16",
        }
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_live_and_disk_are_the_same_model(family: str, tmp_path: Path) -> None:
    folders = parents(FAMILIES[family], tmp_path)
    adapter = detect(folders["base"])
    assert isinstance(adapter, LLMAdapter)
    readers = {label: adapter.open(folder) for label, folder in folders.items()}
    assert list(adapter.check(readers, "base")) == []
    adapter.save(recipe(), readers, tmp_path / "child")

    from_disk = AutoModelForCausalLM.from_pretrained(tmp_path / "child", dtype=torch.float32).eval()
    resident = AutoModelForCausalLM.from_pretrained(folders["base"], dtype=torch.float32).eval()
    before = resident(torch.arange(3, 20)[None]).logits
    Live(Engine(readers), targets(resident)).write(recipe())
    after = resident(torch.arange(3, 20)[None]).logits
    assert torch.equal(after, from_disk(torch.arange(3, 20)[None]).logits)
    assert not torch.equal(after, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_its_place(family: str, tmp_path: Path) -> None:
    folders = parents(FAMILIES[family], tmp_path)
    adapter = LLMAdapter()
    places = adapter.blocks(adapter.open(folders["base"]))
    assert {place.layer for place in places.values()} == {None, *range(LAYERS)}
    inside = {place.component for place in places.values() if place.layer is not None}
    assert inside == {"attention", "mlp", "rest"}
    assert any(place.component == "embeddings" for place in places.values())
    untied = not FAMILIES[family].tie_word_embeddings
    assert any(place.component == "head" for place in places.values()) == untied
    for by in ("all", "layer", "component", "layer+component"):
        blocks = group(places, Grouping.model_validate({"by": by, "apart": True}))
        for name in places:
            assert sum(block.matches(name) for block in blocks) == 1, (name, by)


def test_shards_make_no_difference(tmp_path: Path) -> None:
    adapter = LLMAdapter()
    whole = parents(FAMILIES["llama, untied"], tmp_path / "whole")
    sharded = parents(FAMILIES["llama, untied"], tmp_path / "sharded", shard="20KB")
    assert len(adapter.open(sharded["a"]).files) > 1
    for folders, out in ((whole, "one"), (sharded, "two")):
        readers = {label: adapter.open(folder) for label, folder in folders.items()}
        adapter.save(recipe(), readers, tmp_path / out, shard_bytes=30_000 if out == "two" else 10**9)
    first, second = (AutoModelForCausalLM.from_pretrained(tmp_path / out).state_dict() for out in ("one", "two"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "two" / "model.safetensors.index.json").exists()


def test_a_stored_copy_of_a_tied_head(tmp_path: Path) -> None:
    """Some models ship one; it is left out when it is a copy, and refused when it is not."""
    from safetensors.torch import load_file, save_file

    folder = parents(FAMILIES["llama, tied"], tmp_path)["a"]
    tensors = load_file(folder / "model.safetensors")
    head = tensors["model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": head.clone()}, folder / "model.safetensors", {"format": "pt"})
    assert "lm_head.weight" not in LLMAdapter().open(folder).infos
    save_file({**tensors, "lm_head.weight": head + 1}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedFile, match="two different tensors"):
        LLMAdapter().open(folder)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("intermediate_size", 64),
        ("hidden_size", 64),
        ("vocab_size", 17),
        ("num_hidden_layers", 1),
        ("num_hidden_layers", 5),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
    ],
)
def test_a_config_that_contradicts_the_tensors(tmp_path: Path, key: str, wrong: int) -> None:
    """Told from the headers, before anything is loaded."""
    folder = parents(FAMILIES["llama, untied"], tmp_path)["a"]
    config = json.loads((folder / "config.json").read_text())
    assert config[key] != wrong
    (folder / "config.json").write_text(json.dumps({**config, key: wrong}))
    with pytest.raises(DamagedFile, match=r"config\.json"):
        LLMAdapter().open(folder)


def test_a_contradiction_that_only_the_class_knows(tmp_path: Path) -> None:
    """Told when the model is loaded, where transformers would fill the hole with random numbers."""
    folder = parents(FAMILIES["llama, untied"], tmp_path)["a"]
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "up_proj" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedFile, match=r"needs \d tensor\(s\) that no file holds"):
        llm_model.load(folder, "cpu", torch.float32)


def test_a_layer_that_no_file_holds(tmp_path: Path) -> None:
    folder = parents(FAMILIES["llama, untied"], tmp_path)["a"]
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.layers.1.")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedFile, match=r"no file holds layer 1"):
        LLMAdapter().open(folder)


def test_heads_that_differ_are_refused_and_rope_is_told(tmp_path: Path) -> None:
    """Same shapes, other meaning."""
    adapter = LLMAdapter()
    folders = parents(LlamaConfig(**WIDE), tmp_path / "one")
    others = parents(LlamaConfig(**{**WIDE, "num_attention_heads": 8}), tmp_path / "two")
    with pytest.raises(MisfitError, match=r"'b'.*num_attention_heads is 8, expected 4"):
        adapter.check({"base": adapter.open(folders["base"]), "b": adapter.open(others["b"])}, "base")
    config = json.loads((folders["b"] / "config.json").read_text())
    (folders["b"] / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    told = adapter.check({label: adapter.open(folder) for label, folder in folders.items()}, "base")
    assert len(told) == 1
    assert "rms_norm_eps" in told[0]


@pytest.fixture(scope="module")
def tiny() -> tuple[LLMAdapter, Any]:
    """The shipped math parent, loaded."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    adapter = LLMAdapter()
    return adapter, llm_model.load(resource("model_zoo", "tiny", "llm", "math"), "cpu", torch.float32)


def test_answers_come_back_in_the_order_of_the_prompts(tiny: tuple[LLMAdapter, Any]) -> None:
    adapter, model = tiny
    prompts = [f"Q: {a}-{b}=?\nA: " for a, b in ((15, 8), (9, 2), (40, 13), (7, 7), (33, 4))]
    options = TextGeneration(max_new_tokens=16, batch=2)
    together = adapter.generate(model, prompts, options)
    alone = [adapter.generate(model, [prompt], options)[0] for prompt in prompts]
    assert together == alone
    assert len(set(together)) > 1


def test_a_chat_is_written_as_the_model_has_it(tiny: tuple[LLMAdapter, Any]) -> None:
    adapter, model = tiny
    with pytest.raises(UsageError, match="no chat template"):
        adapter.generate(model, ["15-8=?"], TextGeneration(max_new_tokens=16, chat=True))
    tokenizer = model.parts[1]
    tokenizer.chat_template = "{% for message in messages %}Q: {{ message['content'] }}\nA: {% endfor %}"
    try:
        said = adapter.generate(model, ["15-8=?"], TextGeneration(max_new_tokens=16, chat=True))
    finally:
        tokenizer.chat_template = None
    assert said == adapter.generate(model, ["Q: 15-8=?\nA: "], TextGeneration(max_new_tokens=16))


def test_a_picture_is_nothing_for_a_language_model(tiny: tuple[LLMAdapter, Any]) -> None:
    adapter, model = tiny
    prompts: list[Any] = [Shown(f"{PICTURE}what?", Image.new("RGB", (4, 4)))]
    with pytest.raises(UsageError, match="a language model sees none"):
        adapter.generate(model, prompts, TextGeneration())


def test_generation_repeats_bit_for_bit(tiny: tuple[LLMAdapter, Any]) -> None:
    adapter, model = tiny
    prompts = ["Q: 15-8=?\nA: ", "Q: 21+9=?\nA: "]
    options = TextGeneration(max_new_tokens=16)
    assert adapter.generate(model, prompts, options) == adapter.generate(model, prompts, options)
