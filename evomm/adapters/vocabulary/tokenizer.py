"""Reads tokenizer.json.

A document has the model's own pieces, and the added tokens, which are cut out of a text before the model sees it:

    {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
     "added_tokens": [{"id": 3, "content": "<|im_start|>", "special": true, ...}], "post_processor": ..., ...}

Format: https://huggingface.co/docs/tokenizers (its library reads the file here, so ids are what it says they are).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from evomm.errors import DamagedFile, MissingFile
from evomm.plain import cut, text_of

NAME = "tokenizer.json"
METASPACE = "▁"
_IDS = 1 << 24  # the largest vocabularies have a million tokens
Document = dict[str, Any]
Merge = tuple[str, str]


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json. where: the file it came from, for messages. document: as today's library would write it."""

    where: str
    document: Document

    @cached_property
    def pieces(self) -> dict[str, int]:
        """The model's own tokens -> ids."""
        vocab = self.document["model"]["vocab"]
        if isinstance(vocab, list):  # Unigram: [piece, score] by id
            return {piece: number for number, (piece, _) in enumerate(vocab)}
        return dict(vocab)

    @cached_property
    def added(self) -> dict[str, Document]:
        """Added tokens -> their entries (id and flags), in the order of their ids."""
        return {entry["content"]: entry for entry in sorted(self.document["added_tokens"], key=lambda entry: int(entry["id"]))}

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """All tokens -> ids, in the order of their ids."""
        ids = self.pieces | {token: int(entry["id"]) for token, entry in self.added.items()}
        return dict(sorted(ids.items(), key=lambda item: item[1]))

    @cached_property
    def scores(self) -> dict[str, float]:
        """Log-probabilities of a Unigram model's pieces; empty for other models."""
        vocab = self.document["model"]["vocab"]
        return {piece: float(score) for piece, score in vocab} if isinstance(vocab, list) else {}

    @cached_property
    def merges(self) -> tuple[Merge, ...]:
        """The pairs that BPE joins, what it joins first first; empty for other models."""
        return tuple((left, right) for left, right in self.document["model"].get("merges", ()))

    @property
    def kind(self) -> str:
        """BPE, Unigram, WordPiece or WordLevel."""
        return str(self.document["model"]["type"])

    @cached_property
    def spelling(self) -> str:
        """How tokens spell text; where it differs, tokens that are spelled alike stand for different text."""
        rules = [rule for part in ("normalizer", "pre_tokenizer", "decoder") for rule in _rules(self.document[part])]
        model = self.document["model"]
        marks = [f"{key} {model[key]!r}" for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]
        if any(rule["type"] == "ByteLevel" for rule in rules):
            return ", ".join(["byte-level", *marks])  # bytes as letters: a space is Ġ
        if any(rule["type"] == "Metaspace" or METASPACE in json.dumps(rule, ensure_ascii=False) for rule in rules):
            return ", ".join(["metaspace", *marks])  # a space is ▁
        return ", ".join(["plain", *marks])

    def joined(self, merge: Merge) -> str:
        """The token that a merge makes."""
        return merge[0] + merge[1][len(self.document["model"].get("continuing_subword_prefix") or "") :]


def read(folders: Mapping[str, Path]) -> dict[str, TokenizerFile]:
    """By label, the folder's tokenizer.json; parents that have the same one are read once, since large ones take seconds.

    MissingFile or DamagedFile say what is wrong with it.
    """
    files: dict[str, TokenizerFile] = {}
    known: dict[str, Document] = {}
    for label, folder in folders.items():
        path = folder / NAME
        text = _text(path)
        if text not in known:
            known[text] = _document(text, str(path))
        files[label] = TokenizerFile(str(path), known[text])
    return files


def _document(text: str, where: str) -> Document:
    tokenizer = load(text, where)
    document: Document = json.loads(tokenizer.to_str())
    ids = TokenizerFile(where, document).vocabulary
    if not tokenizer.get_vocab_size(with_added_tokens=True) == len(ids) == len(set(ids.values())):
        raise DamagedFile(f"{where}: some tokens share one id, so rows of the embedding cannot be told apart by token")
    return document


def _text(path: Path) -> str:
    try:
        return text_of(path)
    except FileNotFoundError as error:
        folder = str(path.parent)
        raise MissingFile(
            f"{path}: no such file, and vocabularies are aligned by it; transformers writes one: "
            f"AutoTokenizer.from_pretrained({folder!r}).save_pretrained({folder!r})"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path}: cannot be read as text ({error})") from error


def load(text: str, where: str) -> Tokenizer:
    """The tokenizer that a document describes."""
    try:
        tokenizer = Tokenizer.from_str(text)
    except BaseException as error:  # the library knows no narrower class, and its panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DamagedFile(
            f"{where}: not a tokenizer that the tokenizers library reads ({cut(str(error))}); write it again"
        ) from error
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= _IDS:  # the library would make room for every id below it
        raise DamagedFile(f"{where}: a token has the id {highest}, expected ids below {_IDS}; write it again")
    return tokenizer


def _rules(part: Any) -> Iterator[Document]:
    """The rules of a normalizer, pre-tokenizer or decoder, those inside of sequences too."""
    if not isinstance(part, dict):
        return
    inner = [rule for value in part.values() if isinstance(value, list) for rule in value if isinstance(rule, dict)]
    yield from (found for rule in inner for found in _rules(rule)) if part.get("type") == "Sequence" else (part,)
