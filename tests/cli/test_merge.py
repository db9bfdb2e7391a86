"""``evomm merge`` on whole files: mergekit's YAML, trees of stages, other vocabularies, LoRAs; what cannot be is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.adapters.tokenizers_kit import byte_level
from tests.cli.conftest import Evomm, Said

WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXTS = ["the cat says hello", "世界は猫でいっぱいだ", "<|im_start|>user"]
ENDS = {"bos_token_id": 0, "eos_token_id": 1}


def model(
    folder: Path, seed: int, tokenizer: Tokenizer | None = None, dtype: torch.dtype = torch.float32, layers: int = 4
) -> Path:
    """A small Llama near the one of seed 0, with a tokenizer of its own."""
    tokenizer = tokenizer or byte_level()
    config = LlamaConfig(**WIDE, **ENDS, num_hidden_layers=layers, vocab_size=tokenizer.get_vocab_size())
    torch.manual_seed(0)
    network = LlamaForCausalLM(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    network.to(dtype).save_pretrained(folder, max_shard_size="60KB" if seed % 2 else "1GB")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with base, a and b."""
    for seed, label in enumerate(("base", "a", "b")):
        model(tmp_path / label, seed)
    return tmp_path


def merge(evomm: Evomm, here: Path, *documents: dict[str, Any], out: str = "out") -> Said:
    """Run ``evomm merge`` on these documents."""
    (here / "merge.yaml").write_text(yaml.safe_dump_all(documents, allow_unicode=True))
    return evomm("merge", here / "merge.yaml", "-o", here / out)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, whatever its shards."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def loads(folder: Path) -> LlamaForCausalLM:
    """The model, with nothing missing and nothing left over."""
    network, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return network


def refused(said: Said, code: int, *parts: str) -> None:
    """One message with these parts, no traceback."""
    assert (said.code, said.err.count("error:")) == (code, 1), said.err
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err.replace("\n", " "), said.err


def sources(*labels: str, **parameters: object) -> list[dict[str, Any]]:
    """Models of a document, each with these parameters."""
    return [{"model": label, "parameters": parameters} if parameters else {"model": label} for label in labels]


def test_a_mergekit_file_gives_the_models_it_describes(evomm: Evomm, here: Path) -> None:
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"weight": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.25}]}},
            {"model": "b", "parameters": {"weight": 0.5}},
        ],
        "dtype": "float32",
    }
    said = merge(evomm, here, document)
    assert said.code == 0, said.err
    base, a, b, child = (weights(here / label) for label in ("base", "a", "b", "out"))
    for name, tensor in child.items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        weight = layer / 3 if "mlp" in name else 0.25
        expected = base[name] + weight * (a[name] - base[name]) + 0.5 * (b[name] - base[name])
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
    loads(here / "out")
    assert evomm("merge", here / "out" / "evomm_recipe.yaml", "-o", here / "again").code == 0  # it lies in another folder
    assert all(torch.equal(tensor, child[name]) for name, tensor in weights(here / "again").items())
    assert (here / "out" / "mergekit_config.yml").read_text() == (here / "merge.yaml").read_text()


def test_a_tree_of_three_stages(evomm: Evomm, here: Path) -> None:
    first = {"name": "first", "merge_method": "slerp", "base_model": "base", "models": sources("base", "a")}
    second = {"name": "second", "merge_method": "linear", "models": sources("first", "b", weight=0.5)}
    last = {
        "merge_method": "ties",
        "base_model": "base",
        "models": sources("first", "second", weight=1.0, density=0.5),
        "dtype": "float16",
        "chat_template": "chatml",
    }
    said = merge(evomm, here, last, second, {**first, "parameters": {"t": 0.4}})
    assert said.code == 0, said.err
    assert all(tensor.dtype == torch.float16 for tensor in weights(here / "out").values())
    loads(here / "out")
    spoken = AutoTokenizer.from_pretrained(here / "out").apply_chat_template(
        [{"role": "user", "content": "やあ"}], tokenize=False, add_generation_prompt=True
    )
    assert spoken == "<|im_start|>user\nやあ<|im_end|>\n<|im_start|>assistant\n"
    assert sorted(path.name for path in here.iterdir() if path.name.startswith(".")) == [], "stages are cleared away"


def test_a_stage_that_fails_leaves_nothing(evomm: Evomm, here: Path) -> None:
    first = {"name": "first", "merge_method": "linear", "models": sources("a", "b", weight=0.5)}
    last = {"merge_method": "linear", "models": sources("first", "nowhere", weight=0.5)}
    before = sorted(path.name for path in here.iterdir())
    refused(merge(evomm, here, first, last), 4, "nowhere")
    assert sorted(path.name for path in here.iterdir() if path.name != "merge.yaml") == before


def test_layers_are_stacked(evomm: Evomm, here: Path) -> None:
    parts = [("a", 0, 3), ("b", 1, 4)]
    slices = [{"sources": [{"model": label, "layer_range": [low, high]}]} for label, low, high in parts]
    said = merge(evomm, here, {"merge_method": "passthrough", "slices": slices, "dtype": "float32"})
    assert said.code == 0, said.err
    a, b, child = (weights(here / label) for label in ("a", "b", "out"))
    taken = [(a, 0), (a, 1), (a, 2), (b, 1), (b, 2), (b, 3)]
    for layer, (parent, number) in enumerate(taken):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(child[name.format(layer)], parent[name.format(number)])
    assert torch.equal(child["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(child["model.norm.weight"], b["model.norm.weight"])
    assert loads(here / "out").config.num_hidden_layers == 6


def test_a_union_of_tokens(evomm: Evomm, here: Path) -> None:
    """Parents with the same words under other ids, and one with tokens of its own."""
    own = byte_level()
    own.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    model(here / "a", 1, own)
    model(here / "b", 2, byte_level(special=("</s>", "<s>")))  # ids 0 and 1 change places
    document = {
        "merge_method": "linear",
        "models": sources("base", "a", "b", weight=1.0),
        "tokenizer_source": "union",
        "dtype": "float32",
    }
    said = merge(evomm, here, document)
    assert said.code == 0, said.err
    network, tokenizer = loads(here / "out"), AutoTokenizer.from_pretrained(here / "out")
    assert network.config.vocab_size == len(tokenizer) == own.get_vocab_size()
    name = "model.embed_tokens.weight"
    base, a, b, child = (weights(here / label)[name] for label in ("base", "a", "b", "out"))
    ids = tokenizer.get_vocab()
    other = Tokenizer.from_file(str(here / "b" / "tokenizer.json")).get_vocab()
    plain = Tokenizer.from_file(str(here / "base" / "tokenizer.json")).get_vocab()
    for token in ("<s>", "</s>", "the", "c"):
        if token in plain:
            expected = (base[plain[token]] + a[own.token_to_id(token)] + b[other[token]]) / 3
            torch.testing.assert_close(child[ids[token]], expected)
    torch.testing.assert_close(child[ids["<|im_start|>"]], a[own.token_to_id("<|im_start|>")])  # the only parent that has it
    assert [tokenizer.encode(text) for text in TEXTS] == [own.encode(text).ids for text in TEXTS]
    with torch.no_grad():
        assert network(torch.tensor([tokenizer.encode(TEXTS[0])])).logits.shape[-1] == len(tokenizer)


def test_other_vocabularies_are_told_when_nobody_says_how_to_align_them(evomm: Evomm, here: Path) -> None:
    own = byte_level()
    own.add_special_tokens(["<|im_start|>"])
    model(here / "a", 1, own)
    document = {"merge_method": "linear", "models": sources("base", "a", weight=1.0)}
    refused(merge(evomm, here, document), 3, "embed_tokens", "vocabulary")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's
def test_a_lora_is_a_parent(evomm: Evomm, here: Path) -> None:
    """peft's ``model+lora``, against peft's own merge."""
    said = evomm("extract-lora", here / "a", here / "base", "-o", here / "adapter", "--rank", "4")
    assert said.code == 0, said.err
    peft = pytest.importorskip("peft")
    expected = peft.PeftModel.from_pretrained(loads(here / "base"), here / "adapter").merge_and_unload().state_dict()
    document = {"merge_method": "passthrough", "models": [{"model": "base+adapter"}], "dtype": "float32"}
    said = merge(evomm, here, document)
    assert said.code == 0, said.err
    child = weights(here / "out")
    for name, tensor in child.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(
        child["model.layers.0.mlp.up_proj.weight"], weights(here / "base")["model.layers.0.mlp.up_proj.weight"]
    )


def test_a_lora_of_another_base(evomm: Evomm, here: Path) -> None:
    assert evomm("extract-lora", here / "a", here / "base", "-o", here / "adapter", "--rank", "2").code == 0
    model(here / "short", 3, layers=2)
    document = {"merge_method": "passthrough", "models": [{"model": "short+adapter"}]}
    refused(merge(evomm, here, document), 3, "layers.2")
    document = {"merge_method": "passthrough", "models": [{"model": "b+adapter"}]}
    said = merge(evomm, here, document)  # fits, but was made for another model: done, and told
    assert said.code == 0
    assert "was trained on" in said.err


def test_parents_of_mixed_dtype(evomm: Evomm, here: Path) -> None:
    """They are mixed in float32; a file whose own tensors are of several dtypes is one too."""
    model(here / "a", 1, dtype=torch.bfloat16)
    document = {"merge_method": "linear", "models": sources("base", "a", weight=1.0), "dtype": "float32"}
    assert merge(evomm, here, document).code == 0
    base, a, child = (weights(here / label) for label in ("base", "a", "out"))
    assert all(torch.allclose(child[name], (base[name] + a[name].float()) / 2) for name in child)


def test_parents_of_mixed_dtype_without_a_dtype_for_the_child(evomm: Evomm, here: Path) -> None:
    model(here / "a", 1, dtype=torch.bfloat16)
    model(here / "b", 2, dtype=torch.float16)
    said = merge(evomm, here, {"merge_method": "linear", "models": sources("a", "b", weight=1.0)})
    assert said.code == 0, said.err
    assert {tensor.dtype for tensor in weights(here / "out").values()} == {torch.float32}, "neither is rounded to the other"


def test_a_tensor_that_stands_in_two_shards(evomm: Evomm, here: Path) -> None:
    shards = sorted((here / "a").glob("model-*.safetensors"))
    first = load_file(shards[0])
    save_file({**load_file(shards[1]), **dict([next(iter(first.items()))])}, shards[1], {"format": "pt"})
    refused(merge(evomm, here, {"merge_method": "linear", "models": sources("a", "b", weight=1.0)}), 4, "two shards")


def test_an_index_that_names_a_tensor_twice(evomm: Evomm, here: Path) -> None:
    index = here / "a" / "model.safetensors.index.json"
    name, shard = next(iter(json.loads(index.read_text())["weight_map"].items()))
    index.write_text(index.read_text().replace('"weight_map": {', f'"weight_map": {{"{name}": "{shard}",', 1))
    refused(merge(evomm, here, {"merge_method": "linear", "models": sources("a", "b", weight=1.0)}), 4, "stands twice")


def test_a_tensor_in_no_shard(evomm: Evomm, here: Path) -> None:
    index = here / "a" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.lost.weight"] = next(iter(content["weight_map"].values()))
    index.write_text(json.dumps(content))
    refused(merge(evomm, here, {"merge_method": "linear", "models": sources("a", "b", weight=1.0)}), 4, "model.lost.weight")


def test_a_config_that_contradicts_the_tensors(evomm: Evomm, here: Path) -> None:
    config = here / "a" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": 9}))
    refused(merge(evomm, here, {"merge_method": "linear", "models": sources("a", "b", weight=1.0)}), 4, "config.json", "9 layers")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"merge_method": "tise"}, "ties"),
        ({"parameters": {"wieght": 1.0}}, "weight"),
        ({"residual_weight": 1.0}, "residual_weight"),
        ({"dtype": "float8"}, "float8"),
        ({"modules": {"vision": {"models": []}}}, "modules"),
        ({"chat_template": "chatlm"}, "chatml"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(evomm: Evomm, here: Path, change: dict[str, Any], said: str) -> None:
    document = {"merge_method": "linear", "models": sources("a", "b", weight=1.0), **change}
    refused(merge(evomm, here, document), 2, said)
    assert not (here / "out").exists()


def test_the_tokenizer_of_one_parent_with_the_config_of_another(evomm: Evomm, here: Path) -> None:
    """Files that would say another vocabulary are not carried along."""
    own = byte_level()
    own.add_special_tokens(["<|im_start|>"])
    model(here / "a", 1, own)
    (here / "base" / "merges.txt").write_text("stale")
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": sources("a", "b", weight=0.5),
        "tokenizer": {"source": "a", "pad_to_multiple_of": 64},
        "dtype": "float32",
    }
    said = merge(evomm, here, document)
    assert said.code == 0, said.err
    assert not (here / "out" / "merges.txt").exists()
    assert AutoTokenizer.from_pretrained(here / "out").get_vocab() == own.get_vocab()
    assert loads(here / "out").config.vocab_size % 64 == 0
