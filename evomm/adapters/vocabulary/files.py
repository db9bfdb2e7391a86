"""The files of the child's folder that name tokens or their ids."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evomm.adapters.vocabulary.alignment import Alignment
from evomm.adapters.vocabulary.tokenizer import NAME, read
from evomm.checkpoints.reader import read_json
from evomm.errors import MisfitError

# Other forms of the carrier's vocabulary, which the child's differs from: not to be copied along when it does.
VOCABULARY_FILES = ("vocab.*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")

_CONFIG = "tokenizer_config.json"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
_IDS = re.compile(r"_token_(id|ids|index)$|^(begin_)?suppress_tokens$|^bad_words_ids$")
_TEXT = ("text_config", "language_config", "llm_config")  # where models of several kinds keep that of the text


def child_files(alignment: Alignment, folder: Path) -> Mapping[str, str]:
    """Name -> text of the tokenizer's files, made from those of ``folder`` (the carrier's).

    What the folder has in other forms (`VOCABULARY_FILES`) is not among them: it says what the carrier's vocabulary was.
    """
    added = {entry["content"]: entry for entry in alignment.tokenizer["added_tokens"]}
    files: dict[str, Any] = {NAME: alignment.tokenizer}
    config = read_json(folder / _CONFIG) if (folder / _CONFIG).exists() else {}
    before = read_json(folder / NAME).get("added_tokens", []) if (folder / NAME).exists() else []
    updated = _known_only(config, alignment.vocabulary)
    if "added_tokens_decoder" in config:
        flags = {str(entry["id"]): {key: entry[key] for key in entry if key != "id"} for entry in added.values()}
        updated["added_tokens_decoder"] = flags
    if any(entry["content"] not in alignment.vocabulary for entry in before):
        # A class of its own would add tokens that it knows by default again, so the child gets the general one.
        updated["tokenizer_class"] = "PreTrainedTokenizerFast"
        updated.setdefault("model_input_names", ["input_ids", "attention_mask"])
        updated = dict.fromkeys(_NAMED) | updated
    if updated:
        files[_CONFIG] = updated
    if (folder / "special_tokens_map.json").exists():
        kept = _known_only(read_json(folder / "special_tokens_map.json"), alignment.vocabulary)
        files["special_tokens_map.json"] = {key: value for key, value in kept.items() if value is not None}
    if (folder / "added_tokens.json").exists():
        files["added_tokens.json"] = {token: entry["id"] for token, entry in added.items()}
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in files.items()}


def renumber(config: Mapping[str, Any], alignment: Alignment, source_folder: Path) -> dict[str, Any]:
    """A config.json or generation_config.json for the child: ids are those of the same tokens, vocab_size is the child's.

    Ids of tokens that the child lacks become null, or leave their list.

    Args:
        config: the file's content.
        source_folder: whose ids the file has.

    Raises MisfitError when the child would have no token to end with.
    """
    known = [alignment.own[label] for label, folder in alignment.folders.items() if folder == source_folder]
    ids = known[0] if known else read({"": source_folder})[""].vocabulary
    names = {number: token for token, number in ids.items()}
    taken = set(alignment.vocabulary.values())

    def move(number: int) -> int | None:
        if number in names:
            return alignment.vocabulary.get(names[number])
        # No token of the parent: negative ones mean "none"; a row of padding stays one, while there is one.
        return number if number < 0 or (number < alignment.size and number not in taken) else None

    moved = _renumbered(config, move)
    for part, new in ((config, moved), *((config[key], moved[key]) for key in _TEXT if isinstance(config.get(key), dict))):
        ends = part.get("eos_token_id")
        lost = [names[end] for end in (ends if isinstance(ends, list) else [ends]) if end in names]
        if lost and new["eos_token_id"] in (None, []):
            raise MisfitError(
                f"the child has no token to end with: eos_token_id is {ends}, {lost[0]!r}, which its vocabulary lacks; "
                "add it under vocabulary.tokens, or take another source"
            )
    inner = [key for key in _TEXT if isinstance(config.get(key), dict)]
    for key in inner:
        moved[key]["vocab_size"] = alignment.size
    if "vocab_size" in config or ("model_type" in config and not inner):
        moved["vocab_size"] = alignment.size
    return moved


def _renumbered(config: Mapping[str, Any], move: Callable[[int], int | None]) -> dict[str, Any]:
    return {
        key: _renumbered(value, move)
        if key in _TEXT and isinstance(value, dict)
        else _moved(value, move)
        if _IDS.search(key)
        else value
        for key, value in config.items()
    }


def _moved(value: Any, move: Callable[[int], int | None]) -> Any:
    """An id, a list of ids (lost ones leave it), or a list of sequences of ids (which leave it whole)."""
    if isinstance(value, list):
        moved = [_moved(item, move) for item in value]
        return [
            new
            for old, new in zip(value, moved, strict=True)
            if new is not None and (not isinstance(old, list) or len(new) == len(old))
        ]
    return move(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _known_only(config: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """A tokenizer's config without names of tokens that are not there: transformers would add them anew."""

    def known(token: Any) -> bool:
        content = token.get("content") if isinstance(token, dict) else token
        return not isinstance(content, str) or content in vocabulary

    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key in _LISTS and isinstance(value, list):
            kept[key] = [token for token in value if known(token)]
        elif key in _LISTS and isinstance(value, dict):
            kept[key] = {name: token for name, token in value.items() if known(token)}
        else:
            kept[key] = value if not key.endswith("_token") or known(value) else None
    return kept
