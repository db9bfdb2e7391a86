"""The child's folder: transformers loads its tokenizer with the ids that the embedding has, and the config's ids follow."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from evomm.adapters.vocabulary import Alignment, align, child_files, renumber
from evomm.errors import MisfitError
from evomm.merge.vocabulary import Token, Vocabulary
from tests.adapters.tokenizers_kit import ENGLISH, JAPANESE, TEXTS, World, byte_fallback, byte_level, unigram, words, written

CLASSES: dict[str, tuple[str, Callable[..., Tokenizer]]] = {
    "PreTrainedTokenizerFast": ("llama", byte_level),
    "Qwen2Tokenizer": ("qwen2", byte_level),
    "GPT2TokenizerFast": ("gpt2", byte_level),
    "LlamaTokenizerFast": ("llama", byte_fallback),
    "T5TokenizerFast": ("t5", unigram),
}


def chat_world(root: Path, name: str) -> World:
    """A base, and a chat model that learnt Japanese; with the files that old and new releases write."""
    model_type, kind = CLASSES[name]
    base, chat = kind(), kind([*ENGLISH, *JAPANESE])
    base.add_special_tokens(["<|endoftext|>", "<|gone|>"])
    chat.add_special_tokens(["<|im_start|>", "<|endoftext|>", "<|im_end|>"])
    world = World(root, {"base": base, "chat": chat})
    for label, tokenizer in world.tokenizers.items():
        end = {"base": "<|gone|>", "chat": "<|im_end|>"}[label]
        added = {str(number): flags(token) for number, token in tokenizer.get_added_tokens_decoder().items()}
        config = {
            "tokenizer_class": name,
            "added_tokens_decoder": added,
            "bos_token": "<s>",
            "eos_token": end,
            "unk_token": "<|endoftext|>" if kind is byte_level else "<unk>",
            "pad_token": {"__type": "AddedToken", **flags_of("<|endoftext|>")},
            "additional_special_tokens": ["<|endoftext|>", end],
            "chat_template": "{{ messages }}",
        }
        files = {
            "tokenizer_config.json": config,
            "special_tokens_map.json": {"eos_token": flags_of(end), "bos_token": "<s>", "additional_special_tokens": [end]},
            "added_tokens.json": {token["content"]: int(number) for number, token in added.items()},
            "config.json": {
                "model_type": model_type,
                "vocab_size": world.sizes[label],
                "eos_token_id": tokenizer.token_to_id(end),
            },
        }
        for file, content in files.items():
            (world.folders[label] / file).write_text(json.dumps(content))
    return world


def flags(token: Any) -> dict[str, Any]:
    """As tokenizer_config.json has them."""
    return {key: getattr(token, key) for key in ("content", "single_word", "lstrip", "rstrip", "normalized", "special")}


def flags_of(content: str) -> dict[str, Any]:
    """Of a special token."""
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def child(world: World, spec: Vocabulary, out: Path) -> tuple[Alignment, Any]:
    """The child's folder, loaded by transformers."""
    alignment = align(spec, world.folders, world.sizes, "base")
    carrier = world.folders[alignment.carrier]
    out.mkdir()
    for name, text in child_files(alignment, carrier).items():
        (out / name).write_text(text, encoding="utf-8")
    (out / "config.json").write_text((carrier / "config.json").read_text())
    return alignment, AutoTokenizer.from_pretrained(out)


@pytest.mark.parametrize("source", ["union", "intersection", "base", "chat"])
@pytest.mark.parametrize("name", CLASSES)
def test_transformers_loads_the_childs_tokenizer(tmp_path: Path, name: str, source: str) -> None:
    world = chat_world(tmp_path, name)
    spec = Vocabulary(source=source, tokens={"<|new|>": Token(zero=True)})
    alignment, loaded = child(world, spec, tmp_path / "child")
    assert loaded.get_vocab() == alignment.vocabulary
    assert loaded.eos_token == {"union": "<|gone|>", "base": "<|gone|>", "chat": "<|im_end|>"}.get(source)
    assert (loaded.bos_token, loaded.pad_token) == ("<s>", "<|endoftext|>")
    assert loaded.chat_template == "{{ messages }}"
    assert "token_type_ids" not in loaded.model_input_names
    files = {path.name: json.loads(path.read_text()) for path in (tmp_path / "child").glob("*.json")}
    added_ids = {token: number for token, number in alignment.vocabulary.items() if token in loaded.get_added_vocab()}
    assert files["added_tokens.json"] == added_ids
    named = files["special_tokens_map.json"].get("eos_token", {}).get("content")
    assert named == loaded.eos_token
    raw = written(alignment)
    if name in {"PreTrainedTokenizerFast", "LlamaTokenizerFast"}:  # others cut text by rules of their own
        assert [loaded(text)["input_ids"] for text in TEXTS] == [raw.encode(text).ids for text in TEXTS]
    added = [token for token in ("<|im_start|>", "<|endoftext|>", "<|new|>") if token in alignment.vocabulary]
    assert loaded.convert_ids_to_tokens(loaded("".join(added), add_special_tokens=False)["input_ids"]) == added
    saved = loaded.save_pretrained(tmp_path / "again")
    assert saved
    assert AutoTokenizer.from_pretrained(tmp_path / "again").get_vocab() == alignment.vocabulary


@pytest.mark.parametrize("model_type", ["qwen2", "llama"])
def test_transformers_does_not_add_what_was_lost(tmp_path: Path, model_type: str) -> None:
    """Qwen2's class knows <|endoftext|> without being told, and is taken for its models whatever the files name."""
    world = World(tmp_path, {"base": byte_level(special=["<|endoftext|>"]), "chat": byte_level(special=["<s>"])})
    config = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|pad|>"}
    (world.folders["base"] / "tokenizer_config.json").write_text(json.dumps(config))
    (world.folders["base"] / "config.json").write_text(json.dumps({"model_type": model_type}))
    alignment, loaded = child(world, Vocabulary(source="intersection"), tmp_path / "child")
    assert "<|endoftext|>" not in alignment.vocabulary
    assert loaded.get_vocab() == alignment.vocabulary


def test_a_folder_that_has_only_the_tokenizer_gets_no_more(tmp_path: Path) -> None:
    world = World(tmp_path, {"a": words(["<unk>", "x"]), "b": words(["<unk>", "y"])})
    alignment = align(Vocabulary(source="union"), world.folders, world.sizes)
    files = child_files(alignment, world.folders["a"])
    assert list(files) == ["tokenizer.json"]
    assert Tokenizer.from_str(files["tokenizer.json"]).get_vocab() == alignment.vocabulary


def test_ids_in_configs_follow_their_tokens(tmp_path: Path) -> None:
    world = World(tmp_path, {"a": words(["<unk>", "x", "y", "z"]), "b": words(["z", "y", "<unk>"])}, padding=2)
    config = {
        "model_type": "llava",
        "eos_token_id": [1, 3],
        "bos_token_id": 2,
        "pad_token_id": -1,
        "sep_token_id": 1,
        "image_token_index": 3,
        "cls_token_id": 5,
        "mask_token_id": None,
        "suppress_tokens": [0, 1, 2],
        "bad_words_ids": [[2, 3], [1, 2]],
        "vocab_size": 6,
        "hidden_size": 8,
        "text_config": {"eos_token_id": 3, "hidden_size": 8},
        "vision_config": {"eos_token_id": 3, "vocab_size": 6},
    }
    before = json.dumps(config)
    alignment = align(Vocabulary(source="intersection"), world.folders, world.sizes)
    assert dict(alignment.vocabulary) == {"<unk>": 0, "y": 1, "z": 2}
    assert renumber(config, alignment, world.folders["a"]) == {
        **config,
        "eos_token_id": [2],
        "bos_token_id": 1,
        "sep_token_id": None,
        "image_token_index": 2,
        "cls_token_id": None,
        "suppress_tokens": [0, 1],
        "bad_words_ids": [[1, 2]],
        "vocab_size": 3,
        "text_config": {"eos_token_id": 2, "hidden_size": 8, "vocab_size": 3},
    }
    assert json.dumps(config) == before
    assert renumber({"eos_token_id": 0}, alignment, world.folders["b"]) == {"eos_token_id": 2}, "a generation config"
    (tmp_path / "elsewhere").mkdir()
    world.tokenizers["b"].save(str(tmp_path / "elsewhere" / "tokenizer.json"))
    assert renumber({"model_type": "llama", "eos_token_id": 1}, alignment, tmp_path / "elsewhere") == {
        "model_type": "llama",
        "eos_token_id": 1,
        "vocab_size": 3,
    }


@pytest.mark.parametrize("ends", [1, [1]])
def test_a_child_that_could_never_end_is_refused(tmp_path: Path, ends: Any) -> None:
    world = World(tmp_path, {"a": words(["<unk>", "x"]), "b": words(["<unk>", "y"])})
    alignment = align(Vocabulary(source="b"), world.folders, world.sizes)
    for config in ({"eos_token_id": ends}, {"text_config": {"eos_token_id": ends}}):
        with pytest.raises(MisfitError, match=r"no token to end with: eos_token_id is .*1.*, 'x', which its vocabulary lacks"):
            renumber(config, alignment, world.folders["a"])


def test_tokens_that_only_transformers_knows_are_told(tmp_path: Path) -> None:
    world = World(tmp_path, {"a": words(["<unk>", "x"]), "b": words(["<unk>", "y"])})
    (world.folders["a"] / "added_tokens.json").write_text('{"<|pad|>": 2}')
    config = {"added_tokens_decoder": {"2": flags_of("<|old|>")}, "pad_token": "<|old|>"}
    (world.folders["b"] / "tokenizer_config.json").write_text(json.dumps(config))
    warnings = align(Vocabulary(source="union"), world.folders, world.sizes).warnings
    assert [warning.split(";")[0] for warning in warnings] == [
        "'a' names 1 token(s) that its tokenizer.json lacks, the first is '<|pad|>'",
        "'b' names 1 token(s) that its tokenizer.json lacks, the first is '<|old|>'",
    ]
